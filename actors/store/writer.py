"""The store's actor: it owns the data directory, the one writing connection and the readers.

While a batch is being committed, the transactions of other callers gather in the mailbox and
become the next batch: group commit without a timer.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import outcome
import trio

from r3mes.actors.kernel.actor import Actor
from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.actors.store.batch import Connection, Transaction, write_batch
from r3mes.actors.store.connections import writer
from r3mes.actors.store.datadir import DATABASE, locked
from r3mes.actors.store.faults import RETRY_S, condition, corrupt
from r3mes.actors.store.health import Health, has_room
from r3mes.actors.store.migrate import migrate, shipped, version
from r3mes.actors.store.readers import Readers
from r3mes.actors.store.trio_connection import TrioConnection
from r3mes.errors import ActorCrashed, R3mesError, StoreBusy, StoreCorrupt, StoreError, StoreFull

logger = logging.getLogger(__name__)

BATCH = 64
"""Transactions in one commit at most; beyond it the wait for the first grows for no gain."""


CAPACITY = 1024
"""Transactions that wait at most; more callers wait outside, each with its deadline."""

OnCommit: TypeAlias = Callable[[int, float, bool], None]
"""Told of each batch: its transactions, the seconds it took, whether it was committed."""


def unheard(transactions: int, seconds: float, committed: bool) -> None:
    """Nobody counts the commits."""


@dataclass(frozen=True, slots=True)
class Write(Ask[outcome.Outcome[Any]]):
    """Run ``fn`` in a transaction; answers after COMMIT with its result or its own error."""

    fn: Transaction[Any]


class Intake(Mailbox[Write]):
    """A mailbox that also gives what is waiting, without waiting for more."""

    def waiting(self, limit: int) -> Iterator[Write]:
        """Take up to ``limit`` messages out; those whose asker has given up are dropped."""
        for _ in range(limit):
            try:
                message: Write = self._receive.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                return
            if message.expired:
                self._expired += 1
            else:
                self._received += 1
                yield message


class StoreActor(Actor[Write]):
    """Commits what `Write` messages bring, up to `BATCH` at a time.

    Args:
        mailbox: where transactions come in.
        datadir: the data directory, created if it is missing.
        readers: filled while the actor runs.
        health: told what is wrong, and when it is over.
        on_commit: told of each batch.

    Raises (from `run`, before it is ready):
        DataDirLocked, StoreNewer, StoreCorrupt, StoreFull, StoreBusy, StoreError.
    """

    def __init__(
        self,
        mailbox: Intake,
        datadir: Path,
        *,
        readers: Readers,
        health: Health,
        on_commit: OnCommit = unheard,
    ) -> None:
        super().__init__(mailbox)
        self._on_commit = on_commit
        self._intake = mailbox
        self._datadir = datadir
        self._path = datadir / DATABASE
        self._readers = readers
        self._health = health

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        with locked(self._datadir):
            async with self._opened() as self._writer, self._readers.opened(self._path):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._retry)
                    self._health.well()
                    try:
                        yield
                    finally:
                        self._health.closed()
                        nursery.cancel_scope.cancel()

    async def handle(self, message: Write) -> None:
        batch = [message, *self._intake.waiting(BATCH - 1)]
        with trio.CancelScope(shield=True):  # whoever is in the batch gets an answer
            try:
                await self._commit(batch)
            except BaseException as error:  # crash boundary: first tell the askers, then die
                _refuse(batch, ActorCrashed(f"store: died of {type(error).__name__}"))
                raise

    async def _commit(self, batch: list[Write]) -> None:
        try:
            results = await self._run([write.fn for write in batch])
        except StoreBusy as problem:  # those who came meanwhile have waited just as long
            _refuse([*batch, *self._intake.waiting(CAPACITY)], problem)
        except StoreError as problem:
            _refuse(batch, problem)
        else:
            for write, result in zip(batch, results, strict=True):
                write.reply(result)
        if isinstance(self._health.problem, StoreCorrupt):
            raise self._health.problem  # the next incarnation checks the whole file before all

    async def _run(self, transactions: list[Transaction[Any]]) -> list[outcome.Outcome[Any]]:
        """Commit, and note what that says about the store's health.

        Raises:
            StoreError: nothing was committed.
        """
        began = trio.current_time()
        try:
            results = await self._writer.run(partial(write_batch, transactions=transactions))
        except sqlite3.Error as error:
            self._on_commit(len(transactions), trio.current_time() - began, False)
            problem = condition(error, self._path) or StoreError(f"{self._path}: {error}")
            self._health.failed(problem)
            raise problem from error
        self._on_commit(len(transactions), trio.current_time() - began, True)
        if not isinstance(self._health.problem, StoreFull):  # that takes more than a small write
            self._health.well()
        return [self._named(result) for result in results]

    def _named(self, result: outcome.Outcome[Any]) -> outcome.Outcome[Any]:
        """Give the node's name to a condition that one transaction of a batch met."""
        if isinstance(result, outcome.Error) and (problem := condition(result.error, self._path)):
            self._health.failed(problem)
            return outcome.Error(problem)
        return result

    async def _retry(self) -> None:
        """While something is wrong, look every `RETRY_S` whether it is over."""
        while True:
            await self._health.wait_failed()
            await trio.sleep(RETRY_S)
            full = isinstance(self._health.problem, StoreFull)
            if full and not await self._writer.run(lambda _: has_room(self._datadir)):
                continue
            with suppress(StoreError):  # noted by _run, and tried again
                (touched,) = await self._run([_touch])
                touched.unwrap()
                self._health.well()

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[TrioConnection]:
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(writer(self._path))
                await connection.run_stoppable(self._prepare)
            except (sqlite3.Error, OSError) as error:
                problem = condition(error, self._path) or StoreError(f"{self._path}: {error}")
                raise problem from error
            yield connection

    def _prepare(self, connection: Connection) -> None:
        """Check the file and bring its schema up to date; runs in the writer's thread."""
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise corrupt(self._path, verdict)
        migrate(connection, self._datadir, shipped())
        logger.info("opened %s with SQLite %s", self._path, sqlite3.sqlite_version)


def _touch(connection: Connection) -> None:
    """The smallest transaction that has to reach the disk."""
    connection.execute(f"PRAGMA user_version = {version(connection)}")


def _refuse(writes: Iterable[Write], problem: R3mesError) -> None:
    for write in writes:
        write.refuse(copy(problem))  # each is raised in a task of its own
