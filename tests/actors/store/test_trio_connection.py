"""What we rely on of aiosqlite's private parts, and the cancel rule that rests on it.

When a new aiosqlite breaks one of the first tests, read its ``core.py`` and adapt
``trio_connection.py`` before raising the pin.
"""

import inspect
import random
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import aiosqlite
import pytest
import trio
from aiosqlite import core

from r3mes.actors.store.batch import write_batch
from r3mes.actors.store.trio_connection import ConnectionClosed, TrioConnection


def connector(path: Path | str = ":memory:") -> Callable[[], sqlite3.Connection]:
    return partial(sqlite3.connect, path, isolation_level=None)


def test_the_version_is_one_that_was_read() -> None:
    assert aiosqlite.__version__.startswith("0.22.")


def test_the_private_parts_are_there() -> None:
    source = inspect.getsource(core._connection_worker_thread)
    assert "future.get_loop().call_soon_threadsafe(set_result, future, result)" in source
    assert "future.get_loop().call_soon_threadsafe(set_exception, future, e)" in source
    assert "if result is _STOP_RUNNING_SENTINEL:" in source
    connection = core.Connection(connector(), iter_chunk_size=64)
    assert {"_tx", "_thread", "_running", "_connection", "_connector"} <= set(vars(connection))
    assert vars(connection._thread)["_target"] is core._connection_worker_thread


def test_asyncio_is_used_in_the_overridden_methods_only() -> None:
    using = {
        name
        for name, member in inspect.getmembers(core.Connection, inspect.isfunction)
        if "asyncio." in inspect.getsource(member).replace("asyncio.AbstractEventLoop", "")
        and "create_future" in inspect.getsource(member)
    }
    assert using == {"_execute", "_connect", "stop"}
    assert using <= set(vars(TrioConnection))


async def test_the_rest_of_aiosqlite_works() -> None:
    async with TrioConnection(connector(), name="test") as connection:
        await connection.execute("CREATE TABLE t (i)")
        await connection.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
        async with connection.execute("SELECT i FROM t") as cursor:
            assert [row async for row in cursor] == [(1,), (2,)]


async def test_errors_come_back_and_the_thread_ends_at_close() -> None:
    connection = await TrioConnection(connector(), name="test-thread")
    with pytest.raises(sqlite3.OperationalError, match="syntax"):
        await connection.execute("NONSENSE")
    await connection.close()
    connection._thread.join(5)
    assert not connection._thread.is_alive()
    for call in (connection.run, connection.run_stoppable):
        with pytest.raises(ConnectionClosed):
            await call(lambda _: None)
    await connection.close()


async def test_what_cannot_be_opened_leaves_no_thread(tmp_path: Path) -> None:
    connection = TrioConnection(connector(tmp_path / "no" / "such"), name="test")
    with pytest.raises(sqlite3.OperationalError):
        await connection
    connection._thread.join(5)
    assert not connection._thread.is_alive()


async def test_a_cancel_waits_for_what_was_queued() -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(_: sqlite3.Connection) -> str:
        begun.set()
        go.wait(5)
        return "done"

    async with TrioConnection(connector(), name="test") as connection:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    assert await connection.run(slow) == "done"

                nursery.start_soon(call)
                await trio.to_thread.run_sync(begun.wait)
                scope.cancel()
                go.set()
        assert await connection.run(lambda _: "next") == "next"


async def test_what_is_cancelled_before_it_is_queued_does_not_run() -> None:
    ran: list[sqlite3.Connection] = []
    async with TrioConnection(connector(), name="test") as connection:
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.run(ran.append)
        assert scope.cancelled_caught
        assert await connection.run(lambda _: ran) == []


async def test_random_cancels_leave_no_transaction_open(tmp_path: Path) -> None:
    """Pairs of rows in one transaction: neither a half pair nor a stuck BEGIN, ever."""
    rng = random.Random(3)  # noqa: S311  for a test

    def pair(number: int, connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t VALUES (?)", (number,))
        connection.execute("INSERT INTO t VALUES (?)", (-number,))

    async with TrioConnection(connector(tmp_path / "t.sqlite3"), name="test") as connection:
        await connection.execute("PRAGMA synchronous=OFF")
        await connection.execute("CREATE TABLE t (i)")
        for number in range(1, 1001):
            with trio.move_on_after(rng.choice((0, 1e-5, 1e-4, 1e-3))):
                await connection.run(partial(write_batch, transactions=[partial(pair, number)]))
            assert not await connection.run(lambda c: c.in_transaction)
        halves = "SELECT count(*) FROM t WHERE -i NOT IN (SELECT i FROM t)"
        assert await connection.run(lambda c: c.execute(halves).fetchone()) == (0,)
