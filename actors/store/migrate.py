"""Bring the schema to this program's version: ordered files, each in one transaction.

The version is ``PRAGMA user_version``.  Data that exists already is first copied to
``backups/pre-v<N>.sqlite3``, so that the step can be undone by hand.  There is no way down: older
programs refuse newer data by name.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from r3mes import __version__
from r3mes.actors.store.backup import backup
from r3mes.actors.store.batch import Connection
from r3mes.actors.store.datadir import BACKUPS, DATABASE
from r3mes.errors import StoreNewer

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class Migration:
    """One step: from ``version - 1`` to ``version``."""

    version: int
    name: str
    sql: str


def shipped(folder: Path = FOLDER) -> tuple[Migration, ...]:
    """The migrations that this program knows, in order; ``NNNN_name.sql`` without gaps."""
    files = sorted(folder.glob("*.sql"))
    steps = tuple(
        Migration(int(file.stem[:4]), file.stem[5:], file.read_text("utf-8")) for file in files
    )
    if [step.version for step in steps] != list(range(1, len(steps) + 1)):
        raise RuntimeError(f"{folder}: migrations must be numbered from 1 without gaps")
    return steps


SCHEMA = len(shipped())
"""The schema's version in this program, and of every database that it has opened."""


def migrate(connection: Connection, datadir: Path, steps: Sequence[Migration]) -> None:
    """Apply those of ``steps`` that the data lacks, after a backup if there is data.

    Raises:
        StoreNewer: the data has a version beyond ``steps``.
        sqlite3.Error: the step that failed was rolled back; those before it stay.
    """
    present, target = version(connection), len(steps)
    if present > target:
        raise _newer(connection, datadir, present, target)
    if 0 < present < target:
        backup(connection, datadir / BACKUPS / f"pre-v{target}.sqlite3")
    for step in steps[present:]:
        apply(connection, step, now_ms=time.time_ns() // 1_000_000)
        logger.info("migrated the data from schema %d to %d", step.version - 1, step.version)


def version(connection: Connection) -> int:
    """The schema's version; 0 for an empty file."""
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    return int(number)


def apply(connection: Connection, step: Migration, *, now_ms: int) -> None:
    """Run one step in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _statements(step.sql):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO migration VALUES (?, ?, ?, ?)",
            (step.version, step.name, __version__, now_ms),
        )
        connection.execute(f"PRAGMA user_version = {step.version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(sql: str) -> Iterator[str]:
    """Split a file into statements (``executescript`` would commit behind our back)."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement  # the last one needs no semicolon


def _newer(connection: Connection, datadir: Path, present: int, target: int) -> StoreNewer:
    try:
        row = connection.execute(
            "SELECT program FROM migration WHERE version = ?", (present,)
        ).fetchone()
    except sqlite3.Error:  # a far newer program may have renamed the table
        row = None
    program = row[0] if row else "a newer version"
    install = f"install r3mes >= {program}" if row else "install the version that wrote it"
    candidates = [
        file
        for number in range(target + 1, present + 1)
        if (file := datadir / BACKUPS / f"pre-v{number}.sqlite3").exists()
    ]
    way = f"put {candidates[0]} in the place of {DATABASE}" if candidates else "restore a backup"
    return StoreNewer(
        f"the data is schema {present} (written by {program}); this is r3mes {__version__} "
        f"(schema {target} at most)",
        do=f"{install}, or {way}",
    )
