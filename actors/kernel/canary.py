"""How late the event loop is: a bird that wants to wake every interval and writes down its delay.

Everything in the node shares one thread; whoever computes for long without a checkpoint delays
all others, and this record is where it shows.  Source: ``ddht/canary.py`` (Ethereum ddht).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio


@dataclass(frozen=True, slots=True)
class LoopLag:
    """The delays of the last ``samples`` wake-ups, in milliseconds; zeros before the first."""

    samples: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Canary:
    """Measures scheduling lag.

    Args:
        interval: seconds between two wake-ups.
        memory: wake-ups remembered; older ones are forgotten.
        on_wake: told each delay, in seconds.
    """

    def __init__(
        self,
        *,
        interval: float = 0.1,
        memory: int = 600,
        on_wake: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._interval, self._on_wake = interval, on_wake
        self._lags: deque[float] = deque(maxlen=memory)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Measure until cancelled."""
        task_status.started()
        while True:
            due = trio.current_time() + self._interval
            await trio.sleep_until(due)
            lag = trio.current_time() - due
            self._lags.append(lag)
            self._on_wake(lag)

    def statistics(self) -> LoopLag:
        """The figures of this moment."""
        lags = sorted(self._lags) or [0.0]
        p50, p99 = (lags[int(share * (len(lags) - 1))] for share in (0.5, 0.99))
        return LoopLag(len(self._lags), p50 * 1000, p99 * 1000, lags[-1] * 1000)
