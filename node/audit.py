"""The audit log: who did what to this node's security, one JSON object a line.

    audit("key_created", key="Ab12Cd34", by="admin socket")

Events go to ``audit.log`` in the data directory once `keep_audit_log` was called, and to the log
as well, so that they are not lost when that file cannot be written.  Neither fails its caller.
Prompts, secrets and the parameters of calls are no facts to be given here.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from r3mes.node.logs.masking import masked

FILE = "audit.log"
MAX_BYTES = 1024 * 1024
"""Of one file; when it is full it becomes ``audit.log.1``, and that ``audit.log.2``, and so on."""
KEPT = 4
"""Full files that are kept; older ones are deleted."""
MAX_CHARS = 256
"""Of one fact: some come from callers."""

Fact = str | int | float | bool | None

logger = logging.getLogger(__name__)

_events = logging.getLogger("r3mes-audit")  # beside r3mes: no level of the log may silence it
_events.setLevel(logging.INFO)
_events.propagate = False


def audit(event: str, **facts: Fact) -> None:
    """Note a security event.

    Args:
        event: what happened, in the past tense, such as ``key_revoked``.
        facts: to whom or what, and by whom; None is left out.
    """
    told = {name: _bounded(fact) for name, fact in facts.items() if fact is not None}
    _events.info("%s", event, extra={"facts": told})
    logger.info("%s %s", event, " ".join(f"{name}={fact!r}" for name, fact in told.items()))


def keep_audit_log(datadir: Path) -> None:
    """From now on write the events of this process to ``audit.log`` in ``datadir``."""
    _events.handlers[:] = [AuditFile(datadir / FILE)]


class AuditFile(logging.Handler):
    """Appends each event to a file that it opens anew, whoever moved or deleted it meanwhile.

    A full disk costs the events that come while it is full: the first one written after it says how
    many they were.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._append(record)
        except OSError as error:
            if not self._lost:
                logger.warning("%s: %s; events are in this log only", self._path, error.strerror)
            self._lost += 1
        else:
            self._lost = 0

    def _append(self, record: logging.LogRecord) -> None:
        entry = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
            **({"lost_before": self._lost} if self._lost else {}),
        }
        line = json.dumps(entry).encode() + b"\n"
        self._make_room(len(line))
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            end = os.fstat(fd).st_size
            if os.write(fd, line) != len(line):
                os.ftruncate(fd, end)  # half a line would spoil the next one
                raise OSError(None, "no space for a whole line")
        finally:
            os.close(fd)

    def _make_room(self, size: int) -> None:
        try:
            if self._path.stat().st_size + size <= MAX_BYTES:
                return
        except FileNotFoundError:
            return
        for number in range(KEPT, 0, -1):
            older = self._path.with_name(f"{FILE}.{number}")
            newer = self._path.with_name(f"{FILE}.{number - 1}") if number > 1 else self._path
            if newer.exists():
                newer.replace(older)


def _bounded(fact: Fact) -> Fact:
    return masked(fact[:MAX_CHARS]) if isinstance(fact, str) else fact
