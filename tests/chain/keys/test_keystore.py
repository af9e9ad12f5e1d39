"""A keystore opens for its passphrase only, tells damage apart, and is never overwritten."""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from r3mes.chain.keys.keystore import (
    COST,
    KdfCost,
    _File,
    create_keystore,
    open_keystore,
    read_address,
)
from r3mes.chain.keys.wallet import Wallet
from r3mes.config.secrets import create_secret
from r3mes.errors import (
    InsecureFile,
    PassphraseWrong,
    StoreFull,
    WalletError,
    WalletExists,
    WalletMissing,
)

PASSPHRASE = "corréct horse"  # noqa: S105


@pytest.fixture(scope="module")
def wallet() -> Wallet:
    return Wallet("abandon " * 11 + "about", coin_type=9999)


@pytest.fixture
def path(tmp_path: Path, wallet: Wallet, cheap: KdfCost) -> Path:
    path = tmp_path / "wallets" / "default.json"
    create_keystore(path, wallet, PASSPHRASE, cost=cheap)
    return path


def resealed(path: Path, **changes: object) -> None:
    """The file with fields changed by somebody who can also correct the checksum."""
    fields = json.loads(path.read_text()) | changes
    whole = msgspec.json.decode(json.dumps(fields), type=_File).summed()
    path.write_bytes(msgspec.json.encode(whole))


def test_wallet_comes_back_whole(path: Path, wallet: Wallet) -> None:
    again = open_keystore(path, PASSPHRASE)
    assert again.reveal_words() == wallet.reveal_words()
    assert (again.address, again.coin_type) == (wallet.address, 9999)


def test_address_needs_no_passphrase(path: Path, wallet: Wallet) -> None:
    assert read_address(path) == wallet.address


def test_only_its_owner_can_read_it_and_nothing_else_is_left(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == [path.name]


def test_words_are_not_in_the_file(path: Path, wallet: Wallet) -> None:
    text = path.read_text()
    assert "abandon" not in text
    assert wallet._key.secret.hex() not in text


def test_same_passphrase_typed_by_another_keyboard_opens_it(path: Path, wallet: Wallet) -> None:
    assert open_keystore(path, "corre\u0301ct horse").address == wallet.address


@pytest.mark.parametrize("wrong", ["", "correct horse", PASSPHRASE + " "])
def test_wrong_passphrase_is_called_that(path: Path, wrong: str) -> None:
    with pytest.raises(PassphraseWrong):
        open_keystore(path, wrong)


def test_existing_wallet_is_never_overwritten(path: Path, cheap: KdfCost) -> None:
    before = path.read_bytes()
    with pytest.raises(WalletExists):
        create_keystore(path, Wallet.create(), "new", cost=cheap)
    assert path.read_bytes() == before


def test_two_at_once_do_not_overwrite_each_other(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(FileExistsError):  # as if the name was free a moment ago
        create_secret(path, b"other")
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_passphrase_is_wanted(tmp_path: Path, wallet: Wallet, cheap: KdfCost) -> None:
    with pytest.raises(WalletError, match="empty"):
        create_keystore(tmp_path / "w.json", wallet, "", cost=cheap)
    assert not os.listdir(tmp_path)


def test_missing_wallet_is_called_that(tmp_path: Path) -> None:
    for use in (read_address, lambda path: open_keystore(path, "x")):
        with pytest.raises(WalletMissing):
            use(tmp_path / "none.json")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_file_that_others_can_reach_is_not_opened(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(InsecureFile, match="chmod 600"):
        open_keystore(path, PASSPHRASE)
    with pytest.raises(InsecureFile):
        read_address(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"remes1", b"remes2"),
        lambda data: data.replace(b'"sealed": "', b'"sealed": "AAAA'),
        lambda data: data.replace(b'"ops": 1', b'"ops": 2'),
        lambda data: data.replace(b"argon2id", b"argon2xx"),
        lambda data: b"\xff" + data[1:],
        lambda data: b"[" * 16_000,
        lambda data: b" " * 100_000 + data,
        lambda data: data.replace(b'"version": 1', b'"version": "x"'),
        lambda data: data.replace(b'"kdf"', b'"more": 1, "kdf"'),
    ],
)
def test_damage_is_not_taken_for_a_wrong_passphrase(
    path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WalletError, match="damaged") as refused:
        open_keystore(path, PASSPHRASE)
    assert type(refused.value) is WalletError
    assert "24 words" in str(refused.value)


def test_every_damaged_byte_is_seen(path: Path) -> None:
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(WalletError):
            read_address(path)


@pytest.mark.parametrize(
    "cost", [{"ops": 17}, {"ops": 0}, {"memory": (1 << 30) + 1}, {"memory": 1}, {"ops": True}]
)
def test_costs_out_of_bounds_are_not_paid(path: Path, cost: dict[str, object]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | cost))
    with pytest.raises(WalletError, match="damaged"):
        open_keystore(path, PASSPHRASE)


def test_newer_version_is_called_that(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2, "extra": {}}))
    with pytest.raises(WalletError, match="version 2"):
        open_keystore(path, PASSPHRASE)


def test_address_cannot_be_exchanged(path: Path) -> None:
    resealed(path, address=Wallet.create().address)
    with pytest.raises(PassphraseWrong):  # associated data: the seal does not open
        open_keystore(path, PASSPHRASE)


def test_folder_that_cannot_be_written_is_named(
    tmp_path: Path, wallet: Wallet, cheap: KdfCost
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WalletError, match="cannot be written"):
        create_keystore(tmp_path / "file" / "w.json", wallet, "x", cost=cheap)


def test_a_full_disk_is_named(
    tmp_path: Path, wallet: Wallet, cheap: KdfCost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreFull, match="no space is left for"):
        create_keystore(tmp_path / "w.json", wallet, "x", cost=cheap)
    assert list(tmp_path.iterdir()) == []


def test_real_cost_is_what_rfc_9106_asks_at_least() -> None:
    assert COST.ops >= 3
    assert COST.memory >= 64 << 20
