"""One line a minute: what the node is doing, for those who only read the log."""

from __future__ import annotations

import logging

import trio

from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.observing import Ended, Event
from r3mes.errors import R3mesError
from r3mes.node.earnings import Earnings
from r3mes.node.logs import Outlet
from r3mes.node.network import Network

logger = logging.getLogger(__name__)

EVERY_S = 60.0


class Summary:
    """Counts what was written here, and tells it every minute with the state of the node."""

    def __init__(self, inference: InferenceClient, network: Network, earnings: Earnings) -> None:
        self._inference, self._network, self._earnings = inference, network, earnings
        self._tokens = 0

    def observe(self, event: Event) -> None:
        """What happened to a request."""
        if isinstance(event, Ended) and event.source in ("peer", "local"):
            self._tokens += event.completion_tokens

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(EVERY_S)
            logger.info("%s", await self.line())
            for handler in logging.getLogger().handlers:
                if isinstance(handler, Outlet):
                    handler.tell_repeats()

    async def line(self) -> str:
        """The line of this minute, whose count of tokens it begins anew."""
        tokens, self._tokens = self._tokens, 0
        boards = self._inference.boards().values()
        loaded = sum(board.state in ("ready", "resting") for board in boards)
        parts = [
            f"serving {loaded} models",
            f"{sum(board.running for board in boards)} running",
            f"{tokens / EVERY_S:.1f} tok/s",
            f"{len(self._network.connected())} peers",
            *await self._earned(),
        ]
        return " · ".join(parts)

    async def _earned(self) -> list[str]:
        """What was earned since midnight; nothing while the store cannot say."""
        try:
            totals = await self._earnings.today()
        except R3mesError:
            return []
        return [f"+{totals.earned_uremes / 1e6:.2f} REMES today"]
