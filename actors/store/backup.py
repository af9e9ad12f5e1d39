"""A whole copy of the database while it is in use, there entirely or not at all."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

from r3mes.actors.store.batch import Connection

logger = logging.getLogger(__name__)


def backup(connection: Connection, target: Path) -> None:
    """Copy the database to ``target`` through SQLite's online backup, and check the copy.

    Raises:
        sqlite3.Error: there is no new copy; one of that name that was there before still is.
    """
    target.parent.mkdir(mode=0o700, exist_ok=True)
    unfinished = target.with_name(target.name + ".part")
    unfinished.unlink(missing_ok=True)
    try:
        _copy(connection, unfinished)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    _sync(target.parent)  # the new name survives a power cut, too
    logger.info("backup %s (%d bytes)", target, target.stat().st_size)


def _copy(connection: Connection, path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    copy = sqlite3.connect(path, isolation_level=None)
    try:
        connection.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, with no WAL beside it
        (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"the backup is damaged: {verdict}")
    finally:
        copy.close()
    _sync(path)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
