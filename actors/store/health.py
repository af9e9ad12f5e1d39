"""What is wrong with the store now, for readiness to ask; and whether there is room again."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import trio

from r3mes.errors import NotReady, R3mesError

logger = logging.getLogger(__name__)

ROOM_BYTES = 1 << 20
"""A disk that was full has room again when this much can be reserved."""


class Health:
    """The store's problem, None while all is well; shared by its client and its actor."""

    def __init__(self) -> None:
        self._problem: R3mesError | None = NotReady("the store is not open")
        self._failed = trio.Event()

    @property
    def problem(self) -> R3mesError | None:
        return self._problem

    def well(self) -> None:
        """The last write reached the disk."""
        if self._problem is not None and self._failed.is_set():
            logger.warning("the store works again")
            self._failed = trio.Event()
        self._problem = None

    def failed(self, problem: R3mesError) -> None:
        """A write met a condition; it is retried until it is over."""
        if not self._failed.is_set():
            logger.error("the store cannot write: %s", problem)
        self._problem = problem
        self._failed.set()

    def closed(self) -> None:
        """Nothing can be written until the store is opened again."""
        self._problem = NotReady("the store is not open")
        self._failed = trio.Event()

    async def wait_failed(self) -> None:
        """Return as soon as there is something to retry."""
        await self._failed.wait()


def has_room(folder: Path) -> bool:
    """True if `ROOM_BYTES` can be reserved in ``folder``, against quotas and limits also."""
    probe = folder / "room"
    try:
        fd = os.open(probe, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.posix_fallocate(fd, 0, ROOM_BYTES)
        finally:
            os.close(fd)
            probe.unlink()
    except OSError:
        return False
    return True
