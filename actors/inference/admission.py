"""Who may wait: a bounded queue that refuses at once what it could not begin in time.

Source: ``reliability.md`` §4 in the design notes measured it: at twice the capacity an unbounded
queue wasted 94 % of the work, a short queue with deadlines none.  Kept: the wait is estimated as
depth times mean service time and may take a fifth of the deadline; expired requests never start.
Changed: one service time is always allowed, or long answers would refuse every second request.
"""

from __future__ import annotations

from r3mes.errors import Overloaded

SHARE_OF_DEADLINE = 0.2
WEIGHT = 0.1
"""Of the newest service time in their moving average."""
MINIMUM_RETRY_S = 0.5


class Admission:
    """Decides by the state of the queue; keeps the mean service time.

    Args:
        depth: most requests that wait, whatever their deadlines; may be changed at any time.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._service_s: float | None = None
        self._load_s = 0.0

    def served(self, seconds: float) -> None:
        """A slot was taken for so long."""
        before = seconds if self._service_s is None else self._service_s
        self._service_s = before + WEIGHT * (seconds - before)

    def loaded(self, seconds: float) -> None:
        """A worker needed so long to become ready."""
        self._load_s = seconds

    def wait_s(self, *, waiting: int, running: int, slots: int) -> float:
        """How long a request that comes now will wait for others, about."""
        ahead = max(0, waiting + running - slots + 1)
        return ahead * (self._service_s or 0.0) / slots

    def full(self, *, waiting: int, running: int, slots: int) -> bool:
        """Whether no more may wait; as many as slots are free always may, for them."""
        return waiting >= max(self.depth, slots - running)

    def check(
        self,
        *,
        waiting: int,
        running: int,
        slots: int,
        patience_s: float,
        loading: bool = False,
        ahead: int | None = None,
        may_displace: bool = False,
    ) -> None:
        """Let a request in, or not.

        Args:
            waiting: requests in the queue.
            running: answers being written.
            slots: answers that can be.
            patience_s: seconds until the request is worthless unless it has begun.
            loading: there is no worker yet.
            ahead: those in the queue whose turn comes before; None for all.
            may_displace: another one would make room for it in a full queue.

        Raises:
            Overloaded: the queue is full, or the wait would be too long.
        """
        before = waiting if ahead is None else ahead
        queue = self.wait_s(waiting=before, running=running, slots=slots)
        wait = queue + (self._load_s if loading else 0.0)
        most = min(
            patience_s, max(patience_s * SHARE_OF_DEADLINE, (self._service_s or 0.0) / slots)
        )
        full = self.full(waiting=waiting, running=running, slots=slots)
        if (full and not may_displace) or queue > most or wait > patience_s:
            work = "until the model is loaded" if loading else "of work"
            raise Overloaded(
                f"{waiting} requests wait and {running} are answered, about {wait:.1f} s {work}",
                retry_after_s=max(MINIMUM_RETRY_S, wait - most),
            )
