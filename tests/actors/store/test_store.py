"""What a caller of the store may rely on."""

import errno
import sqlite3
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio
import trio.testing

from r3mes.actors.store import DATABASE, Connection, Store, Transaction, open_readonly, open_store
from r3mes.actors.store import readers as readers_module
from r3mes.actors.store.connections import reader
from r3mes.actors.store.trio_connection import TrioConnection
from r3mes.errors import ActorStopped, AskTimeout, NotReady, StoreError


def seen(peer: str) -> Transaction[object]:
    return lambda connection: connection.execute("INSERT INTO peer VALUES (?, '[]', 0)", (peer,))


def peers(connection: Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT peer_id FROM peer ORDER BY peer_id")]


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def endless(connection: Connection) -> object:
    return connection.execute(ENDLESS).fetchone()


async def test_an_acknowledged_write_is_read_and_found_again(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.tx(seen("a"))
        assert await store.read(peers) == ["a"]
    async with open_store(tmp_path) as store:
        assert await store.read(peers) == ["a"]


async def test_tx_gives_the_functions_result(store: Store) -> None:
    assert await store.tx(lambda _: 42) == 42


async def test_the_pragmas_are_set(store: Store) -> None:
    def pragmas(connection: Connection) -> list[object]:
        names = ["journal_mode", "synchronous", "foreign_keys", "busy_timeout", "query_only"]
        names += ["wal_autocheckpoint"]
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert await store.tx(pragmas) == ["wal", 2, 1, 500, 0, 1000]
    assert (await store.read(pragmas))[-2:] == [1, 0]


async def test_an_error_goes_to_its_caller_and_undoes_its_own_work_only(store: Store) -> None:
    def fails(connection: Connection) -> None:
        seen("half")(connection)
        raise KeyError("mine")

    outcomes: dict[str, object] = {}

    async def call(name: str, fn: Transaction[object]) -> None:
        try:
            outcomes[name] = await store.tx(fn)
        except KeyError as error:
            outcomes[name] = error

    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(call, name, seen(name))
            nursery.start_soon(call, f"{name} fails", fails)
    assert await store.read(peers) == ["a", "b", "c"]
    assert sorted(n for n, o in outcomes.items() if isinstance(o, KeyError)) == [
        "a fails",
        "b fails",
        "c fails",
    ]
    assert store.problem() is None


async def test_many_writers_share_a_commit(store: Store) -> None:
    commits = 0

    def count(connection: Connection) -> None:
        def on_commit(statement: str) -> None:
            nonlocal commits
            commits += statement.startswith("COMMIT")

        connection.set_trace_callback(on_commit)

    await store.tx(count)
    commits = 0
    async with trio.open_nursery() as nursery:
        for number in range(256):
            nursery.start_soon(store.tx, seen(str(number)))
    await store.tx(lambda connection: connection.set_trace_callback(None))
    assert len(await store.read(peers)) == 256
    assert commits <= 10


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "commit()", "RELEASE one"])
async def test_a_function_that_ends_the_transaction_itself_is_refused(
    store: Store, end: str
) -> None:
    def meddles(connection: Connection) -> None:
        connection.commit() if end == "commit()" else connection.execute(end)

    with pytest.raises(StoreError):
        await store.tx(meddles)
    await store.tx(seen("after"))
    assert store.problem() is None
    assert await store.read(peers) == ["after"]


async def test_reads_cannot_write(store: Store) -> None:
    with pytest.raises(StoreError, match="readonly"):
        await store.read(seen("x"))


async def test_a_read_is_interrupted_at_its_deadline_and_its_connection_serves_on(
    store: Store,
) -> None:
    for _ in range(4):  # more than there are connections
        with trio.fail_after(5), pytest.raises(AskTimeout):
            await store.read(endless, timeout=0.02)
    assert await store.read(peers) == []


async def test_a_cancelled_read_ends_at_once(store: Store) -> None:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(6):  # those that run, and those that wait for a connection
                nursery.start_soon(store.read, endless)
            await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
    assert await store.read(peers) == []


async def test_a_store_that_closes_does_not_wait_for_reads(tmp_path: Path) -> None:
    told: list[str] = []

    async def read() -> None:
        try:
            await store.read(endless)
        except ActorStopped:
            told.append("stopped")

    async with trio.open_nursery() as nursery:
        async with open_store(tmp_path) as store:
            for _ in range(2):
                nursery.start_soon(read)
            await trio.sleep(0.05)
    assert told == ["stopped", "stopped"]


async def test_a_deadline_is_felt_between_short_statements_also(store: Store) -> None:
    def busy(connection: Connection) -> None:
        while True:
            connection.execute("SELECT 1").fetchone()

    with pytest.raises(AskTimeout):
        await store.read(busy, timeout=0.02)


async def test_before_and_after_there_is_a_problem(tmp_path: Path) -> None:
    assert isinstance(Store(tmp_path).problem(), NotReady)
    async with open_store(tmp_path) as store:
        assert store.problem() is None
    assert isinstance(store.problem(), NotReady)


async def test_transactions_wait_for_the_next_incarnation(tmp_path: Path) -> None:
    store = Store(tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.tx, seen("kept"))
        names: list[list[str]] = []

        async def read() -> None:
            names.append(await store.read(peers))

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await nursery.start(store.run)
        await store.tx(lambda _: None)
        assert await store.read(peers) == ["kept"]
        nursery.cancel_scope.cancel()


async def test_a_store_that_opened_by_half_opens_whole_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, opened = Store(tmp_path), 0

    def second_fails(path: Path) -> AbstractAsyncContextManager[TrioConnection]:
        nonlocal opened
        opened += 1
        if opened == 2:
            raise OSError(errno.EMFILE, "too many open files")
        return reader(path)

    monkeypatch.setattr(readers_module, "reader", second_fails)
    with pytest.RaisesGroup(OSError):
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        assert await store.read(peers) == []
        nursery.cancel_scope.cancel()


async def test_a_tool_reads_beside_the_node_and_alone(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.tx(seen("a"))
        beside = open_readonly(tmp_path / DATABASE)
        assert peers(beside) == ["a"]
        await store.tx(seen("b"))
        assert peers(beside) == ["a", "b"]
        beside.close()
    alone = open_readonly(tmp_path / DATABASE)
    assert peers(alone) == ["a", "b"]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        seen("c")(alone)
    alone.close()
    with pytest.raises(sqlite3.OperationalError):
        open_readonly(tmp_path / "missing.sqlite3")


async def test_files_are_private(tmp_path: Path) -> None:
    async with open_store(tmp_path / "new") as store:
        await store.tx(seen("a"))
        modes = {file.stat().st_mode & 0o777 for file in (tmp_path / "new").iterdir()}
        assert modes == {0o600}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
