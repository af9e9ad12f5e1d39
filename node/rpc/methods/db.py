"""The node's data: how large, whether it is whole, and a copy of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from r3mes.actors.store import DATABASE, SCHEMA
from r3mes.actors.store.examine import examine
from r3mes.config.load import Loaded
from r3mes.errors import R3mesError, StoreError
from r3mes.node.backup.create import create_backup
from r3mes.node.backup.record import last_backup
from r3mes.node.rpc.method import method


class Store(Protocol):
    """Knows what is wrong with itself, and how large it is."""

    def problem(self) -> R3mesError | None: ...
    def size_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class DbStatus:
    """The database.

    Args:
        size_bytes: with what is not yet merged into the main file.
        problem: why nothing can be written now; None when all is well.
        last_backup_at: unix time of the last whole backup; None without one.
    """

    path: str
    schema: int
    size_bytes: int
    problem: str | None
    last_backup_at: float | None


@dataclass(frozen=True, slots=True)
class DbChecked:
    """Whether every page of the database holds together; ``why`` not, if it does not."""

    whole: bool
    why: str | None


@dataclass(frozen=True, slots=True)
class BackupMade:
    """A backup on the node's disk; ``files`` are the names of what is in it."""

    file: str
    bytes: int
    made_at: float
    schema: int
    files: list[str]


class DbMethods:
    """The namespaces ``db`` and ``backup``.

    Args:
        loaded: the configuration in force, and where it is.
    """

    def __init__(self, store: Store, loaded: Callable[[], Loaded]) -> None:
        self._store, self._loaded = store, loaded
        self._one_at_a_time = trio.Lock()

    @method("db_status", scope="a")
    async def status(self) -> DbStatus:
        """Where the database is, how large, and whether it can be written."""
        datadir = self._loaded().config.node.datadir
        problem = self._store.problem()
        return DbStatus(
            path=str(datadir / DATABASE),
            schema=SCHEMA,
            size_bytes=self._store.size_bytes(),
            problem=None if problem is None else str(problem),
            last_backup_at=last_backup(datadir),
        )

    @method("db_check", scope="a")
    async def check(self) -> DbChecked:
        """Read the whole database and see whether it holds together, beside the running node."""
        async with self._one_at_a_time:
            try:
                await trio.to_thread.run_sync(
                    examine, self._loaded().config.node.datadir / DATABASE
                )
            except StoreError as error:
                return DbChecked(whole=False, why=str(error))
        return DbChecked(whole=True, why=None)

    @method("backup_create", scope="a", errors=(StoreError,))
    async def create(self) -> BackupMade:
        """Back the node up into a new file in the data directory's `backups`, as it is now."""
        loaded = self._loaded()
        async with self._one_at_a_time:
            made = await trio.to_thread.run_sync(create_backup, loaded.config, loaded.file)
        return BackupMade(
            file=str(made.file),
            bytes=made.size,
            made_at=made.manifest.made_at,
            schema=made.manifest.schema,
            files=sorted(made.manifest.names()),
        )
