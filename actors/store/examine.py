"""Whether a database is whole and of a version that this program reads; nothing is changed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from r3mes.actors.store.backup import backup
from r3mes.actors.store.connections import open_readonly
from r3mes.actors.store.faults import condition, corrupt
from r3mes.actors.store.migrate import shipped, version
from r3mes.errors import StoreError, StoreNewer


def examine(path: Path) -> int:
    """The schema's version of the database at ``path``, once it is found to be whole.

    Beside a running node it reads what was committed by then.

    Raises:
        StoreCorrupt: it is damaged.
        StoreNewer: a newer program wrote it.
        StoreError: it is not there, or cannot be read.
    """
    try:
        with closing(open_readonly(path)) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            schema = version(connection)
    except (OSError, sqlite3.Error) as error:
        raise condition(error, path) or StoreError(f"{path}: {error}") from error
    if verdict != "ok":
        raise corrupt(path, verdict)
    if schema > len(shipped()):
        raise StoreNewer(f"{path} has schema {schema}, this program knows {len(shipped())} at most")
    return schema


def copy_database(path: Path, target: Path) -> None:
    """Copy the database at ``path`` to ``target`` as it is at this moment; a node may run on it.

    Raises:
        StoreCorrupt, StoreFull, StoreBusy, StoreError: there is no copy.
    """
    try:
        with closing(open_readonly(path)) as connection:
            backup(connection, target)
    except (OSError, sqlite3.Error) as error:
        raise condition(error, target) or StoreError(f"{path}: {error}") from error
