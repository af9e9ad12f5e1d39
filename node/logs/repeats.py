"""The same line over and over is written a few times, then counted.

A disk that stays full or a peer that sends nonsense would otherwise bury what else happens, and
fill the disk for good.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

BURST = 3
"""So often the same line is written within `WINDOW_S`."""
WINDOW_S = 60.0
KNOWN = 512
"""Different lines that are remembered; the one that came least lately is forgotten."""

Key: TypeAlias = tuple[str, int, str]
"""Logger, level, message."""


@dataclass(slots=True)
class _Seen:
    since: float
    written: int = 0
    left_out: int = 0


class Repeats:
    """Decides about each line.

    Args:
        clock: seconds that only go up.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: OrderedDict[Key, _Seen] = OrderedDict()

    def heed(self, key: Key) -> int | None:
        """How many of this line were left out before it, or None: leave this one out too."""
        now = self._clock()
        seen = self._seen.setdefault(key, _Seen(now))
        self._seen.move_to_end(key)
        if len(self._seen) > KNOWN:
            self._seen.popitem(last=False)
        if now - seen.since >= WINDOW_S:
            left_out, self._seen[key] = seen.left_out, _Seen(now, written=1)
            return left_out
        if seen.written < BURST:
            seen.written += 1
            return 0
        seen.left_out += 1
        return None

    def ended(self) -> list[tuple[Key, int]]:
        """Lines that came no more once some were left out; each is told once."""
        now = self._clock()
        over = [(key, seen) for key, seen in self._seen.items() if now - seen.since >= WINDOW_S]
        for key, _ in over:
            del self._seen[key]
        return [(key, seen.left_out) for key, seen in over if seen.left_out]
