"""A wallet that is locked signs nothing; it opens with its passphrase, and for a while if asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio
import trio.testing

from r3mes.actors.doorway import Doorway
from r3mes.chain.keys.keystore import KdfCost, create_keystore
from r3mes.chain.keys.signing import verify
from r3mes.chain.keys.wallet import Wallet
from r3mes.errors import PassphraseWrong, WalletLocked, WalletMissing
from r3mes.node.vault import Vault

Audited: TypeAlias = Callable[[], list[dict[str, Any]]]
WALLET = Wallet(" ".join(["abandon"] * 23 + ["art"]))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_keystore(tmp_path / "w.json", WALLET, "correct horse", cost=KdfCost(1, 8 << 20))
    return tmp_path / "w.json"


def is_open(vault: Vault) -> bool:
    """As a function, because it changes between two looks."""
    return vault.is_open


async def test_locked_it_is_known_by_its_address_alone(path: Path) -> None:
    vault = Vault(path)
    assert (vault.address, vault.is_open) == (WALLET.address, False)
    for use in (lambda: vault.pub, lambda: vault.sign(b"message"), vault.admit):
        with pytest.raises(WalletLocked, match=WALLET.address):
            use()
    assert "correct" not in repr(vault)


async def test_it_opens_and_locks(path: Path) -> None:
    vault = Vault(path)
    door = Doorway("requests", vault.admit)
    with pytest.raises(WalletLocked), door.enter():
        pass
    with pytest.raises(PassphraseWrong):
        await vault.unlock("wrong")
    assert not is_open(vault)
    await vault.unlock("correct horse")
    with door.enter():
        assert verify(vault.alg, vault.pub, b"message", vault.sign(b"message"))
    with pytest.raises(PassphraseWrong):  # an attempt that fails changes nothing
        await vault.unlock("wrong")
    assert is_open(vault)
    vault.lock()
    assert not is_open(vault)
    with pytest.raises(WalletLocked):
        vault.sign(b"message")


async def test_it_locks_itself_when_its_time_is_over(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    vault = Vault(path)
    await vault.unlock("correct horse", ttl_s=60)
    await trio.sleep(59)
    assert is_open(vault)
    await trio.sleep(2)
    assert not is_open(vault)
    await vault.unlock("correct horse", ttl_s=60)
    await vault.unlock("correct horse")  # for good
    await trio.sleep(3600)
    assert is_open(vault)


def test_a_wallet_that_was_opened_before(path: Path, tmp_path: Path) -> None:
    assert Vault(path, WALLET).pub == WALLET.pub
    with pytest.raises(WalletMissing):
        Vault(tmp_path / "nowhere.json")


async def test_who_tries_to_open_it_is_in_the_audit_log(path: Path, audited: Audited) -> None:
    vault = Vault(path)
    with pytest.raises(PassphraseWrong):
        await vault.unlock("wrong horse")
    await vault.unlock("correct horse", ttl_s=60)
    vault.lock()
    vault.lock()
    assert audited() == [
        {"event": "wallet_unlock_failed", "wallet": WALLET.address, "why": "passphrase_wrong"},
        {"event": "wallet_opened", "wallet": WALLET.address, "for_s": 60},
        {"event": "wallet_locked", "wallet": WALLET.address},
    ]
