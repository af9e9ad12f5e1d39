"""What SQLite's result codes mean for the node: which are conditions, and what to say about them.

A *condition* is about the disk or the file and not about the statement: it is reported to the
caller, makes the store unhealthy, and is retried by itself.  Everything else (a constraint, a
wrong statement) belongs to the transaction that met it.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
from pathlib import Path

from r3mes.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull

RETRY_S = 1.0
"""Seconds after which a condition may be over, told to callers."""

LITTLE_SPACE_BYTES = 1 << 20
"""Less free space than this explains an I/O error (SQLite says FULL for some writes only)."""


def condition(error: BaseException, path: Path) -> StoreError | None:
    """The condition of the store at ``path`` that ``error`` tells of, or None."""
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return _full(path) if full else StoreError(f"{path.parent} cannot be used: {error}")
    if not isinstance(error, sqlite3.Error):
        return None
    name = getattr(error, "sqlite_errorname", "")
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreBusy(
                f"another process holds the write lock of {path}", retry_after_s=RETRY_S
            )
        case sqlite3.SQLITE_FULL:
            return _full(path)
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN if _little_space(path):
            return _full(path)
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return corrupt(path, str(error))
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
            return StoreError(f"{path}: {error} ({name})", retry_after_s=RETRY_S)
    return None


def corrupt(path: Path, why: str) -> StoreCorrupt:
    """The error for a damaged file, which names the newest backup if there is one."""
    backups = sorted(
        (path.parent / "backups").glob("pre-v*.sqlite3"), key=lambda file: file.stat().st_mtime
    )
    do = (
        f"stop the node and put {backups[-1]} in its place"
        if backups
        else "stop the node and restore your own backup; moved away, the node begins anew without "
        "its receipts and API keys"
    )
    return StoreCorrupt(f"{path} is damaged: {why}", do=do)


def _full(path: Path) -> StoreFull:
    return StoreFull(f"no space is left for {path}", retry_after_s=RETRY_S)


def _little_space(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < LITTLE_SPACE_BYTES
    except OSError:
        return False
