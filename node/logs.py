"""What the node writes to stderr while it runs: lines for people or JSON, never a key.

API keys have a form of their own, so one that slipped into a message is recognised and masked.
"""

from __future__ import annotations

import logging
import re
import sys
import time

import msgspec

from r3mes.config.schema import Log
from r3mes.errors import R3mesError

API_KEY = re.compile(r"r3k_\w{8}_\w{8,}")


class TextLines(logging.Formatter):
    """``2026-11-23T23:50:12Z info r3mes.node.app: message``."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{_at(record)} {record.levelname.lower()} {record.name}: {record.getMessage()}"
        return masked("\n".join([text, *self._trace(record)]))

    def _trace(self, record: logging.LogRecord) -> list[str]:
        """The traceback; of an error that we raise on purpose what it says, which is enough."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, R3mesError) and type(error) is not R3mesError:
            return [str(error)]
        return [self.formatException(record.exc_info)] if record.exc_info and error else []


class JsonLines(TextLines):
    """The same as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": _at(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace := self._trace(record):
            entry["trace"] = trace[0]
        return masked(msgspec.json.encode(entry).decode())


def masked(text: str) -> str:
    """``text`` with API keys cut down to what may be shown of them: their id."""
    return API_KEY.sub(lambda found: f"{found[0][:12]}_…", text)


def set_up(log: Log) -> None:
    """Write log lines of our own and warnings of libraries to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log.format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("r3mes").setLevel(log.level.upper())


def _at(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
