"""The node's wallet, which may be locked: its address is always known, its key while it is open.

A node that nobody gave a passphrase starts all the same, so that it can be looked at, and opened
from this machine.  Whatever has to be signed waits until then.
"""

from __future__ import annotations

import logging
from functools import partial
from math import inf
from pathlib import Path

import trio

from r3mes.chain.keys.keystore import open_keystore, read_address
from r3mes.chain.keys.signing import SECP256K1
from r3mes.chain.keys.wallet import Wallet
from r3mes.errors import WalletError, WalletLocked
from r3mes.ids import Address
from r3mes.node.audit import audit

logger = logging.getLogger(__name__)


class Vault:
    """One wallet file; a `r3mes.chain.keys.signing.Signer` that refuses while it is locked.

    Args:
        path: the keystore.
        wallet: what is in it, if it was opened already.

    Raises:
        WalletMissing, InsecureFile, WalletError: the file cannot be used.
    """

    alg = SECP256K1

    def __init__(self, path: Path, wallet: Wallet | None = None) -> None:
        self._path, self._wallet = path, wallet
        self._closes_at = inf  # on trio's clock
        self._one_at_a_time = trio.Lock()
        self.address: Address = wallet.address if wallet else read_address(path)

    @property
    def is_open(self) -> bool:
        """Whether it can sign now; a key whose time is over is forgotten here."""
        if self._closes_at < inf and trio.current_time() >= self._closes_at:
            self.lock()
        return self._wallet is not None

    def admit(self) -> None:
        """Let work in that will have to be signed.

        Raises:
            WalletLocked: it could not be.
        """
        if not self.is_open:
            raise WalletLocked(f"the wallet {self.address} is locked")

    async def unlock(self, passphrase: str, *, ttl_s: float | None = None) -> None:
        """Open it, for ``ttl_s`` seconds if that is given.

        One attempt at a time, each of them slow on purpose.

        Raises:
            PassphraseWrong: it stays as it was.
            WalletError: the file cannot be used any more.
        """
        async with self._one_at_a_time:
            attempt = partial(open_keystore, self._path, passphrase)
            try:
                self._wallet = await trio.to_thread.run_sync(attempt)
            except WalletError as error:
                audit("wallet_unlock_failed", wallet=self.address, why=error.kind.code)
                raise
        audit("wallet_opened", wallet=self.address, for_s=ttl_s)
        self._closes_at = inf if ttl_s is None else trio.current_time() + ttl_s
        logger.warning("the wallet %s is open", self.address)

    def lock(self) -> None:
        """Forget the key; answers that are being written end without a receipt."""
        if self._wallet is not None:
            audit("wallet_locked", wallet=self.address)
            logger.warning("the wallet %s is locked", self.address)
        self._wallet, self._closes_at = None, inf

    @property
    def pub(self) -> bytes:
        return self._opened().pub

    def sign(self, message: bytes) -> bytes:
        return self._opened().sign(message)

    def _opened(self) -> Wallet:
        self.admit()
        assert self._wallet is not None  # noqa: S101  else it would not have been admitted
        return self._wallet

    def __repr__(self) -> str:
        return f"Vault({self.address})"
