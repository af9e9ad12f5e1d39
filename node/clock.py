"""The wall clock, and whether it was set while the node ran.

Nothing waits by it: every timeout counts on trio's clock, which nobody can set.  Signed requests
name wall time, so peers whose clocks differ by more than 30 s refuse one another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

logger = logging.getLogger(__name__)

JUMP_S = 5.0
"""A step that is worth a word; less is how time services keep a clock right."""
LOOK_S = 1.0


def now_ms() -> int:
    """The wall clock, in unix milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Jump:
    """The clock was set: by how much, and when (unix milliseconds by the new time)."""

    seconds: float
    at_ms: int

    def __str__(self) -> str:
        way = "ahead" if self.seconds > 0 else "back"
        return f"the clock was set {way} by {abs(self.seconds):.0f} s"


class ClockWatch:
    """Compares the wall clock with one that only goes on, also while the machine sleeps.

    Args:
        wall: seconds, as people count them.
        steady: seconds since some moment in the past.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._wall, self._steady = wall, steady
        self.jumps = 0
        self.last: Jump | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled."""
        task_status.started()
        apart = self._wall() - self._steady()
        while True:
            await trio.sleep(LOOK_S)
            before, apart = apart, self._wall() - self._steady()
            if abs(apart - before) >= JUMP_S:
                self.jumps += 1
                self.last = Jump(apart - before, int(self._wall() * 1000))
                logger.warning("%s; peers refuse requests of a clock that is 30 s off", self.last)
