"""Wallets: which there are; and the node's own, which can be opened and locked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Protocol

import trio
from pydantic import Field

from r3mes.config.schema import Config
from r3mes.errors import Forbidden, PassphraseWrong, WalletError
from r3mes.ids import Address
from r3mes.node.rpc.context import Context
from r3mes.node.rpc.method import method
from r3mes.node.wallets import WalletShown, wallets_shown

Passphrase = Annotated[str, Field(min_length=1, max_length=4096)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86_400)]


class Vault(Protocol):
    """The node's wallet."""

    @property
    def address(self) -> Address: ...
    @property
    def is_open(self) -> bool: ...
    async def unlock(self, passphrase: str, *, ttl_s: float | None = None) -> None: ...
    def lock(self) -> None: ...


@dataclass(frozen=True, slots=True)
class WalletState:
    """The node's wallet; while it is locked no request is answered."""

    address: Address
    is_open: bool


class WalletMethods:
    """The namespace ``wallet``."""

    def __init__(self, config: Config, vault: Vault) -> None:
        self._config, self._vault = config, vault

    @method("wallet_list", scope="w", errors=(WalletError,))
    async def listed(self) -> list[WalletShown]:
        """The wallets of the data directory with their addresses."""
        return await trio.to_thread.run_sync(partial(wallets_shown, self._config))

    @method("wallet_unlock", scope="w", errors=(Forbidden, PassphraseWrong, WalletError))
    async def unlock(
        self, passphrase: Passphrase, context: Context, ttl_s: Seconds | None = None
    ) -> WalletState:
        """Open the node's wallet, for `ttl_s` seconds if that is given.

        Over the admin socket only: a passphrase travels no other way.
        """
        _check_socket(context)
        await self._vault.unlock(passphrase, ttl_s=ttl_s)
        return self._state()

    @method("wallet_lock", scope="w", errors=(Forbidden,))
    async def lock(self, context: Context) -> WalletState:
        """Forget the wallet's key; no request is answered until it is opened again.

        Over the admin socket only.
        """
        _check_socket(context)
        self._vault.lock()
        return self._state()

    def _state(self) -> WalletState:
        return WalletState(self._vault.address, self._vault.is_open)


def _check_socket(context: Context) -> None:
    if context.key.id is not None:
        raise Forbidden(
            "a wallet is opened and locked over the admin socket only",
            do="run `r3mes wallet unlock` on the node's machine",
        )
