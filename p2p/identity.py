"""The node key: who this node is to its peers.

One ed25519 key in one file, apart from any wallet: a stolen node key can be replaced without moving
money.  The peer id is the key itself behind libp2p's prefixes, so whoever knows the id can check
signatures.

Source: libp2p specification, peer-ids; file in the form of libp2p's identity files (the protobuf of
a 32-byte seed, 36 bytes).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import ClassVar

import base58
from nacl.signing import SigningKey

from r3mes.config.secrets import create_secret
from r3mes.errors import ConfigError, InsecureFile
from r3mes.ids import PeerId

_SEED_PREFIX = bytes.fromhex("08011220")
"""Protobuf of a private key: field 1 = 1 (ed25519), field 2 = 32 bytes."""
_ID_PREFIX = bytes.fromhex("002408011220")
"""Identity multihash (0x00) of 36 bytes: protobuf of a public key, ed25519, 32 bytes."""
_KEY_BYTES = 32
_ID_CAP = 64
"""Characters; ids have 52, and reading base58 takes time that grows with the square."""


def peer_id_of(pub: bytes) -> PeerId:
    """The peer id of an ed25519 public key (32 bytes)."""
    return PeerId(base58.b58encode(_ID_PREFIX + pub).decode())


def pub_of(peer: PeerId) -> bytes:
    """The ed25519 public key (32 bytes) inside ``peer``.

    Raises:
        ValueError: not the id of an ed25519 key.
    """
    raw = base58.b58decode(peer)
    if len(raw) != len(_ID_PREFIX) + _KEY_BYTES or not raw.startswith(_ID_PREFIX):
        raise ValueError(f"{peer} is not the id of an ed25519 key")
    return raw[len(_ID_PREFIX) :]


def is_peer_id(text: str) -> bool:
    """Whether ``text`` is the id of an ed25519 key, in the one form that we compare."""
    try:
        return len(text) <= _ID_CAP and peer_id_of(pub_of(PeerId(text))) == text
    except ValueError:
        return False


class NodeKey:
    """An ed25519 key that signs for this node.

    Args:
        seed: 32 secret bytes; never shown by ``repr``.
    """

    alg: ClassVar[str] = "ed25519"

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self.pub = bytes(self._key.verify_key)
        self.peer_id = peer_id_of(self.pub)

    def __repr__(self) -> str:
        return f"NodeKey({self.peer_id})"

    @property
    def seed(self) -> bytes:
        """The secret itself, for the transport's handshake."""
        return bytes(self._key)

    def sign(self, message: bytes) -> bytes:
        """Signature (64 bytes) over ``message``."""
        return self._key.sign(message).signature

    @classmethod
    def load_or_create(cls, path: Path) -> NodeKey:
        """The key in ``path``; a new one is written there (mode 0600) if there is no file.

        Raises:
            InsecureFile: others may read or write the file.
            ConfigError: the file is not a node key.
        """
        try:
            return cls(_read_seed(path))
        except FileNotFoundError:
            return cls(_create_seed(path))


def _read_seed(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise InsecureFile(
                f"{path} holds the node key and has mode {mode:04o}", do=f"run chmod 600 {path}"
            )
        content = file.read(1024)
    if len(content) != len(_SEED_PREFIX) + _KEY_BYTES or not content.startswith(_SEED_PREFIX):
        raise ConfigError(
            f"{path} is not a node key",
            do="restore it from a copy, or move it away: a new key gives the node a new identity",
        )
    return content[len(_SEED_PREFIX) :]


def _create_seed(path: Path) -> bytes:
    """Write a new seed; whoever comes second to an existing file reads that one."""
    seed = os.urandom(_KEY_BYTES)
    try:
        create_secret(path, _SEED_PREFIX + seed)
    except FileExistsError:
        return _read_seed(path)
    return seed
