"""Finds nodes of the local network and connects to them, as a supervised child."""

from __future__ import annotations

import logging

import trio

from r3mes.errors import NetworkError, R3mesError
from r3mes.node.network import Network
from r3mes.p2p.discovery import lan_discovery

logger = logging.getLogger(__name__)


class Lan:
    """Announces this node by multicast DNS and dials whom it hears of."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Go on until cancelled; no multicast, or a name that is taken, is no reason to fail."""
        task_status.started()
        try:
            async with lan_discovery(self._network.peer_id, self._network.addrs) as seen:
                async for addrs in seen:
                    await self._meet(addrs)
        except (OSError, NetworkError) as error:
            logger.warning("nodes in the local network are not looked for: %s", error)
        await trio.sleep_forever()

    async def _meet(self, addrs: tuple[str, ...]) -> None:
        try:
            await self._network.dial(addrs)
        except R3mesError as error:
            logger.info("a node of the local network: %s", error.detail)
