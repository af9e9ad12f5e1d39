"""Gives memory back before the system takes it: has models rest that nobody asks for.

Two signs count.  Little of the machine's or the container's memory is left; or a model does not
fit beside the others.  Then the one that was idle for longest goes, one at a time.  It is still
offered, and comes back when it is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import trio

from r3mes.actors.inference.actor import Board
from r3mes.actors.inference.memory import free_bytes, total_bytes
from r3mes.errors import ModelTooLarge, R3mesError

logger = logging.getLogger(__name__)

LOOK_S = 5.0
LOW_SHARE, LOW_BYTES = 0.03, 128 << 20
"""Less than this share of all memory, and at least so many bytes, is little."""
IDLE_S, IDLE_FOR_ANOTHER_S = 60.0, 5.0
"""For how long a model that goes was not asked; shorter if another waits for its place."""


class Models(Protocol):
    """The models of this node."""

    def boards(self) -> Mapping[str, Board]: ...
    async def rest(self, model: str, why: str) -> bool: ...


class Pressure:
    """A supervised child that looks at the memory now and then.

    Args:
        inference: the models.
        free, total: bytes of memory.
    """

    def __init__(
        self,
        inference: Models,
        free: Callable[[], float] = free_bytes,
        total: Callable[[], float] = total_bytes,
    ) -> None:
        self._inference, self._free, self._total = inference, free, total

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(LOOK_S)
            try:
                await self._look()
            except R3mesError as error:
                logger.debug("no model could be put to rest: %s", error)
            except OSError as error:
                logger.warning("the memory cannot be looked at: %s", error)
                await trio.sleep_forever()

    async def _look(self) -> None:
        free, low = self._free(), max(LOW_BYTES, LOW_SHARE * self._total())
        if (large := self._too_large()) is not None:
            await self._rest_one(IDLE_FOR_ANOTHER_S, f"{large} needs its memory")
        elif free < low:
            await self._rest_one(IDLE_S, f"only {int(free) >> 20} MiB of memory were free")

    def _too_large(self) -> str | None:
        """A model that waits for memory."""
        for name, board in self._inference.boards().items():
            if isinstance(board.error, ModelTooLarge) and board.state in ("failed", "restarting"):
                return name
        return None

    async def _rest_one(self, idle_s: float, why: str) -> None:
        now = trio.current_time()
        idle = {
            name: now - board.idle_since
            for name, board in self._inference.boards().items()
            if board.state == "ready" and not board.pinned and not board.running
        }
        for name in sorted(idle, key=lambda one: -idle[one]):
            if idle[name] >= idle_s and await self._inference.rest(name, why):
                logger.info("model %s rests: %s", name, why)
                return
