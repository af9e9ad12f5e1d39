"""Wallets: which there are."""

from __future__ import annotations

from functools import partial

import trio

from r3mes.config.schema import Config
from r3mes.errors import WalletError
from r3mes.node.rpc.method import method
from r3mes.node.wallets import WalletShown, wallets_shown


class WalletMethods:
    """The namespace ``wallet``."""

    def __init__(self, config: Config) -> None:
        self._config = config

    @method("wallet_list", scope="w", errors=(WalletError,))
    async def listed(self) -> list[WalletShown]:
        """The wallets of the data directory with their addresses."""
        return await trio.to_thread.run_sync(partial(wallets_shown, self._config))
