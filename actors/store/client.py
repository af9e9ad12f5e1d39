"""What the rest of the node sees of the store: `tx`, `read`, `problem`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar, cast

import trio

from r3mes.actors.store.batch import Connection, Transaction
from r3mes.actors.store.datadir import DATABASE
from r3mes.actors.store.faults import condition
from r3mes.actors.store.health import Health
from r3mes.actors.store.readers import Readers
from r3mes.actors.store.writer import CAPACITY, Intake, OnCommit, StoreActor, Write, unheard
from r3mes.errors import NotReady, R3mesError, StoreError

R = TypeVar("R")

ANSWER_S = 8.0
"""How long the writer may take to say anything: a commit on a slow disk goes before."""


class Store:
    """The client of the store on ``datadir``, valid over restarts of its actor.

    ``ChildSpec("store", store.run)`` supervises the actor; transactions that are sent while it
    restarts wait for it, as long as their deadline allows.

    Args:
        datadir: the data directory.
        on_commit: told of each batch: transactions, seconds, whether it was committed.
    """

    def __init__(self, datadir: Path, *, on_commit: OnCommit = unheard) -> None:
        self.datadir, self._on_commit = datadir, on_commit
        self.mailbox = Intake("store", capacity=CAPACITY)
        self._readers = Readers()
        self._health = Health()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run one incarnation of the `StoreActor`."""
        actor = StoreActor(
            self.mailbox,
            self.datadir,
            readers=self._readers,
            health=self._health,
            on_commit=self._on_commit,
        )
        await actor.run(task_status=task_status)

    async def tx(self, fn: Transaction[R], *, timeout: float = 5.0) -> R:
        """Run ``fn`` in a transaction; its result comes after it is safely on the disk.

        ``fn`` is a pure function of the connection: it runs in the writer's thread, beside the
        transactions of others, neither commits nor rolls back, and awaits nothing.  What it
        raises undoes its own work only and is raised here.

        A cancelled or timed-out call may have been committed all the same.  So a write that its
        caller could repeat needs an idempotency key.

        Raises:
            StoreBusy, StoreFull, StoreError: nothing was written.
            AskTimeout: no answer within ``timeout`` seconds.
        """
        result = await self.mailbox.ask(Write(fn), timeout=timeout)
        return cast("R", result.unwrap())

    async def read(self, fn: Transaction[R], *, timeout: float = 5.0) -> R:
        """Run ``fn`` on a read-only connection; a cancel or the deadline interrupts SQLite.

        It sees every transaction that was acknowledged before.

        Raises:
            AskTimeout: not done within ``timeout`` seconds.
            StoreError: the file cannot be read.
        """
        try:
            return await self._readers.run(fn, timeout=timeout)
        except Exception as error:
            if problem := condition(error, self.datadir / DATABASE):
                raise problem from error
            raise

    async def answers(self) -> None:
        """Return once the writer has answered, if only that it cannot write now.

        Raises:
            AskTimeout: it is silent.
        """
        with suppress(StoreError, NotReady):
            await self.tx(_nothing, timeout=ANSWER_S)

    def size_bytes(self) -> int:
        """What the database takes on the disk, its log included."""
        sizes = 0
        for ending in ("", "-wal", "-shm"):  # and not what a restore has put aside
            with suppress(FileNotFoundError):
                sizes += (self.datadir / f"{DATABASE}{ending}").stat().st_size
        return sizes

    def problem(self) -> R3mesError | None:
        """Why nothing can be written now, or None; for readiness."""
        return self._health.problem


def _nothing(connection: Connection) -> None:
    """A transaction that changes nothing and so reaches no disk."""


@asynccontextmanager
async def open_store(datadir: Path) -> AsyncIterator[Store]:
    """A store without a supervisor, for commands and tests.

    Raises:
        DataDirLocked, StoreNewer, StoreCorrupt, StoreFull, StoreBusy, StoreError.
    """
    store = Store(datadir)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            try:
                yield store
            finally:
                store.mailbox.close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _only(group) from None


def _only(error: BaseException) -> BaseException:
    """The one error in nested groups of one, so that callers can catch it by name."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
