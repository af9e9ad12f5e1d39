"""Levels of loggers that are changed for a while: debugging that nobody has to switch off."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import trio

from r3mes.errors import NotFound, NotReady

Level = Literal["debug", "info", "warning", "error"]

OURS = "r3mes"
"""Loggers of libraries stay as they are: some log what must not be logged."""


class LogLevels:
    """Sets levels, and sets them back when their time is over; a supervised child."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}
        self._until: dict[str, float] = {}
        self._changed = trio.Event()
        self._running = False

    def set(self, name: str, level: Level, *, ttl_s: float) -> Level:
        """Log what is at least ``level`` in ``name`` for ``ttl_s`` seconds; the level before it.

        Raises:
            NotFound: there is no such logger, or it is not one of ours.
        """
        if not self._running:
            raise NotReady("the node is starting or stopping")
        logger = self._logger(name)
        previous = logger.getEffectiveLevel()
        self._before.setdefault(name, logger.level)
        self._until[name] = trio.current_time() + ttl_s
        logger.setLevel(level.upper())
        self._changed.set()
        return _word(previous)

    def configure(self, level: Level) -> None:
        """Log what is at least ``level`` from now on, until somebody says otherwise.

        The later word counts: what was set for a while before is over, and is not set back.
        """
        self._before.pop(OURS, None)
        self._until.pop(OURS, None)
        logging.getLogger(OURS).setLevel(level.upper())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep time; whatever is changed at the end is set back."""
        self._running = True
        try:
            task_status.started()
            while True:
                next_end = min(self._until.values(), default=trio.current_time() + 3600)
                with trio.move_on_at(next_end):
                    await self._changed.wait()
                self._changed = trio.Event()
                now = trio.current_time()
                self._revert([name for name, end in self._until.items() if end <= now])
        finally:
            self._running = False
            self._revert(list(self._until))

    def _revert(self, names: Sequence[str]) -> None:
        for name in names:
            logging.getLogger(name).setLevel(self._before.pop(name))
            del self._until[name]

    def _logger(self, name: str) -> logging.Logger:
        known = logging.Logger.manager.loggerDict.get(name)
        if not isinstance(known, logging.Logger) or name.partition(".")[0] != OURS:
            raise NotFound(
                f"there is no logger {name[:64]!r}",
                do=f"name {OURS} or one below it",
                param="logger",
            )
        return known


def _word(number: int) -> Level:
    for level, word in ((10, "debug"), (20, "info"), (30, "warning")):
        if number <= level:
            return word  # type: ignore[return-value]
    return "error"
