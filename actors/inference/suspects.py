"""Requests under which a worker died: run alone the next time, refused for a while after that.

When a worker dies, each of its requests may be the cause.  So every one of them is a suspect, and
a suspect is answered while nothing else is.  If the worker dies under it again, it was the cause
and is refused for a time; if not, it is as good as any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec
import trio

from r3mes.actors.inference.protocol import Start
from r3mes.errors import RequestQuarantined

HOLD_S = 600.0
MOST = 1024
"""Suspects that are remembered; the oldest are forgotten for new ones."""

_encoder = msgspec.msgpack.Encoder()


class Suspects:
    """Knows requests by a hash of what is computed: prompt and options, but not the seed."""

    def __init__(self) -> None:
        self._deaths: dict[bytes, tuple[int, float]] = {}

    def check(self, start: Start) -> None:
        """Raise `RequestQuarantined` if a worker died twice under this request, not long ago."""
        deaths, at = self._deaths.get(_digest(start), (0, 0.0))
        left = at + HOLD_S - trio.current_time()
        if deaths > 1 and left > 0:
            raise RequestQuarantined(
                f"the worker died under this request {deaths} times", retry_after_s=left
            )

    def suspected(self, start: Start) -> bool:
        """Whether it must run alone."""
        return _digest(start) in self._deaths

    def died(self, starts: Iterable[Start]) -> None:
        """A worker died while it answered these."""
        for start in starts:
            digest = _digest(start)
            deaths, _ = self._deaths.pop(digest, (0, 0.0))
            self._deaths[digest] = deaths + 1, trio.current_time()
        while len(self._deaths) > MOST:
            self._deaths.pop(next(iter(self._deaths)))

    def clear(self, start: Start) -> None:
        """It was answered, and the worker lives."""
        self._deaths.pop(_digest(start), None)


def _digest(start: Start) -> bytes:
    """Of all but what differs from try to try."""
    same = msgspec.structs.replace(start, id=0, seed=0, emitted=b"", max_new=0)
    return hashlib.sha256(_encoder.encode(same)).digest()
