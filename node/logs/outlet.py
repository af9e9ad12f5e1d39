"""The one way out for log lines: masked, limited, kept, written; none of it may fail its caller."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from r3mes.actors.tracing import trace_id
from r3mes.node.logs.lines import Format, level_of, trace_of
from r3mes.node.logs.masking import masked
from r3mes.node.logs.repeats import Repeats
from r3mes.node.logs.ring import Ring


class Stderr:
    """Writes to a file descriptor and bears that it cannot: a full disk must not end the node.

    Past Python's own buffers, where what could not be written would stay and turn the exit status
    of a node that stops in good order into 120.
    """

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._lost = 0

    def write(self, text: str) -> None:
        """Write a line, or count it as lost; how many were is the first thing written after."""
        lost = f"({self._lost} log lines were lost: they could not be written)\n"
        data = f"{lost if self._lost else ''}{text}\n".encode(errors="backslashreplace")
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            self._lost += 1
        else:
            self._lost = 0


class Outlet(logging.Handler):
    """The only handler.

    Args:
        form: makes the text of a line.
        stderr: where it is written.
        ring: where it is kept.
        clock: seconds that only go up.
    """

    def __init__(
        self,
        form: Format,
        stderr: Stderr,
        ring: Ring,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._form, self._stderr, self._ring = form, stderr, ring
        self._repeats = Repeats(clock)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._emit(record)
        except Exception as error:  # noqa: BLE001  such as a format that does not fit its values
            what = type(error).__name__  # and no more: what it says was not masked
            self._stderr.write(f"{record.name}: a line could not be written ({what})")

    def _emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        key = (record.name, record.levelno, message)
        left_out = 0 if record.levelno <= logging.DEBUG else self._repeats.heed(key)
        if left_out is not None:
            self._put(record, message, left_out)

    def tell_repeats(self) -> None:
        """Tell of lines that were left out and did not come again; called now and then."""
        self.acquire()
        try:
            for (name, level, message), left_out in self._repeats.ended():
                record = logging.LogRecord(name, level, "", 0, message, None, None)
                self._put(record, message, left_out)
        finally:
            self.release()

    def _put(self, record: logging.LogRecord, message: str, left_out: int) -> None:
        more = f" ({left_out} more like this were left out)" if left_out else ""
        line = self._ring.add(
            int(record.created * 1000),
            level_of(record),
            record.name,
            masked(message) + more,
            masked(trace_of(record)),
            trace_id=trace_id(),
        )
        self._stderr.write(self._form(line))
