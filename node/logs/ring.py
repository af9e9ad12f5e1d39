"""The last lines of the log, in memory: for subscriptions over RPC and for bundles.

Bounded twice: by the number of lines, and by the length of each.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from itertools import islice
from threading import Lock

import msgspec
import trio

LINES = 2000
"""Lines that are kept; at one a second the last half hour."""
CHARS = 4096
"""Most characters kept of a message, and of a trace its last ones."""


class Line(msgspec.Struct, frozen=True):
    """One line of the log, with secrets masked already.

    Args:
        number: counts all lines of this process from 1; a gap means that lines were dropped.
        at_ms: wall clock, unix milliseconds.
        level: ``debug``, ``info``, ``warning`` or ``error`` (``critical`` counts as error).
        trace: the traceback, empty if there is none.
        trace_id: of the request that it belongs to, if that is traced; 32 hex digits.
    """

    number: int
    at_ms: int
    level: str
    logger: str
    message: str
    trace: str = ""
    trace_id: str = ""


class Ring:
    """Remembers the newest lines and drops the oldest; lines may come from any thread.

    Args:
        capacity: lines that are kept.
    """

    def __init__(self, capacity: int = LINES) -> None:
        self._lines: deque[Line] = deque(maxlen=capacity)
        self._last = 0
        self._lock = Lock()
        self._waiting: list[tuple[trio.lowlevel.TrioToken, trio.Event]] = []

    def add(
        self,
        at_ms: int,
        level: str,
        logger: str,
        message: str,
        trace: str = "",
        *,
        trace_id: str = "",
    ) -> Line:
        """Keep a line; wakes those who wait for one."""
        with self._lock:
            self._last += 1
            cut = message[:CHARS], trace[-CHARS:]
            line = Line(self._last, at_ms, level, logger, *cut, trace_id)
            self._lines.append(line)
            waiting, self._waiting = self._waiting, []
        for token, event in waiting:
            _wake(token, event)
        return line

    def after(self, number: int = 0) -> list[Line]:
        """The kept lines whose number is above ``number``, oldest first."""
        with self._lock:
            new = min(self._last - number, len(self._lines))
            return list(islice(self._lines, len(self._lines) - new, None)) if new > 0 else []

    async def wait_after(self, number: int) -> list[Line]:
        """The same, as soon as there is one.

        A reader that is slower than the log misses lines: the first number it gets is then more
        than one above the last.
        """
        while not (found := self.after(number)):
            event = trio.Event()
            entry = (trio.lowlevel.current_trio_token(), event)
            with self._lock:
                if self._last <= number:
                    self._waiting.append(entry)
                else:
                    event.set()
            try:
                await event.wait()
            finally:
                with self._lock:
                    if entry in self._waiting:
                        self._waiting.remove(entry)
        return found


def _wake(token: trio.lowlevel.TrioToken, event: trio.Event) -> None:
    with suppress(trio.RunFinishedError):  # nobody is left to read
        token.run_sync_soon(event.set)


RECENT = Ring()
"""The lines of this process: there is one log, as there is one stderr."""
