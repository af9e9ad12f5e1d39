"""The node key and its file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from nacl.signing import VerifyKey

from r3mes.errors import ConfigError, InsecureFile
from r3mes.p2p.identity import NodeKey, peer_id_of, pub_of


def test_a_key_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "node.key"
    first = NodeKey.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert NodeKey.load_or_create(path).peer_id == first.peer_id
    assert [file.name for file in path.parent.iterdir()] == ["node.key"]


def test_the_peer_id_is_the_key() -> None:
    key = NodeKey(bytes(range(32)))
    assert key.peer_id == "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"
    assert pub_of(key.peer_id) == key.pub
    assert peer_id_of(key.pub) == key.peer_id
    VerifyKey(key.pub).verify(b"message", key.sign(b"message"))


def test_the_seed_is_not_shown() -> None:
    key = NodeKey(bytes(range(32)))
    assert key.seed.hex() not in repr(key)
    assert repr(key) == f"NodeKey({key.peer_id})"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.key"
    NodeKey.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(InsecureFile, match=f"{mode:04o}") as caught:
        NodeKey.load_or_create(path)
    assert str(path) in caught.value.do


@pytest.mark.parametrize("content", [b"", b"\x08\x01\x12\x20short", b"x" * 36, b"\0" * 5000])
def test_a_file_that_is_no_key_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not a node key"):
        NodeKey.load_or_create(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "peer", ["", "hello", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "0OIl"]
)
def test_ids_of_other_kinds_hold_no_key(peer: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        pub_of(peer)  # type: ignore[arg-type]
