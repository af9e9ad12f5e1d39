"""The forms of a log line: for people, as JSON, and either of them for the journal."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from r3mes.errors import R3mesError
from r3mes.node.logs.ring import Line

Format: TypeAlias = Callable[[Line], str]
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3}
_formatter = logging.Formatter()


def format_for(kind: Literal["text", "json"], *, journal: bool) -> Format:
    """The form that was configured; the journal has times and severities of its own."""
    if kind == "json":
        return _for_journal(as_json) if journal else as_json
    return _for_journal(as_message) if journal else as_text


def as_text(line: Line) -> str:
    """``2026-11-23T23:50:12Z info r3mes.node.app: message``."""
    return f"{_at(line)} {line.level} {as_message(line)}"


def as_message(line: Line) -> str:
    """The same without time and severity."""
    return "\n".join([f"{line.logger}: {line.message}", *line.trace.splitlines()])


def as_json(line: Line) -> str:
    """One JSON object."""
    entry = {
        "at": _at(line),
        "level": line.level,
        "logger": line.logger,
        "message": line.message,
    }
    more = {"trace": line.trace, "trace_id": line.trace_id}
    return msgspec.json.encode(entry | {key: text for key, text in more.items() if text}).decode()


def _for_journal(inner: Format) -> Format:
    """``<6>message``, each line of it: the journal takes the severity from there.

    Source: sd-daemon(3).
    """

    def prefixed(line: Line) -> str:
        priority = f"<{_PRIORITY[line.level]}>"
        return "\n".join(priority + part for part in inner(line).splitlines())

    return prefixed


def goes_to_journal(fd: int = 2) -> bool:
    """Whether ``fd`` is the journal: systemd names its device and inode in ``JOURNAL_STREAM``.

    Read here although it is no configuration: systemd sets it, not a person.
    Source: systemd.exec(5).
    """
    try:
        stat = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def level_of(record: logging.LogRecord) -> str:
    """One of four; libraries have more."""
    for level in ("error", "warning", "info"):
        if record.levelno >= logging.getLevelName(level.upper()):
            return level
    return "debug"


def trace_of(record: logging.LogRecord) -> str:
    """The traceback; of an error that we raise on purpose what it says, which is enough."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None or record.exc_info is None:
        return ""
    if isinstance(error, R3mesError) and type(error) is not R3mesError:
        return str(error)
    return _formatter.formatException(record.exc_info)


def _at(line: Line) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(line.at_ms // 1000))
