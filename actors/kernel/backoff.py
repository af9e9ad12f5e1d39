"""How long to wait before a restart: exponential, clamped, with full jitter.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
OTP has no backoff; RabbitMQ's supervisor2 added one because a crash loop eats the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

_MAX_DOUBLINGS = 30  # 2.0 ** 1024 overflows, and the 1025th failure would kill the supervisor


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delays before the restarts of one child.

    Args:
        base: upper bound in seconds of the delay after the first failure; 0 restarts at once.
        cap: upper bound in seconds of every delay.
        stable_after: a child that stayed ready for this many seconds starts again at ``base``.
    """

    base: float = 0.1
    cap: float = 30.0
    stable_after: float = 60.0

    def delay_for(self, failures: int, rng: Random) -> float:
        """Seconds to wait after the ``failures``-th failure in a row (1 is the first)."""
        ceiling = self.base * 2.0 ** min(failures - 1, _MAX_DOUBLINGS)
        return rng.uniform(0.0, min(self.cap, ceiling))
