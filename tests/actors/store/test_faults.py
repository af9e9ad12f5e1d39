"""What goes wrong around the store: full disks, foreign locks, damaged files, two nodes."""

import errno
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from r3mes.actors.store import BACKUPS, DATABASE, Connection, Store, Transaction, open_store
from r3mes.actors.store import client as client_module
from r3mes.actors.store import writer as writer_module
from r3mes.actors.store.batch import write_batch
from r3mes.actors.store.faults import condition
from r3mes.errors import AskTimeout, DataDirLocked, StoreBusy, StoreCorrupt, StoreError, StoreFull


def blob(number: int) -> Transaction[object]:
    return lambda connection: connection.execute(
        "INSERT INTO peer VALUES (?, hex(randomblob(20000)), 0)", (str(number),)
    )


def count(connection: Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM peer").fetchone()[0])


def pages_at_most(pages: int) -> Transaction[object]:
    return lambda connection: connection.execute(f"PRAGMA max_page_count={pages}").fetchone()


async def until_well(store: Store) -> None:
    with trio.fail_after(5):
        while store.problem() is not None:  # noqa: ASYNC110  as readiness asks it
            await trio.sleep(0.02)


async def fill(store: Store) -> int:
    """Write until the store refuses; says how many were acknowledged."""
    for number in range(1000):
        try:
            await store.tx(blob(number))
        except StoreFull:
            return number
    raise AssertionError("never full")


async def test_a_full_store_says_so_keeps_what_it_has_and_recovers(store: Store) -> None:
    await store.tx(pages_at_most(100))
    kept = await fill(store)
    assert isinstance(store.problem(), StoreFull)
    assert await store.read(count) == kept > 0
    await store.tx(pages_at_most(1_000_000))
    await until_well(store)
    await store.tx(blob(kept))
    assert await store.read(count) == kept + 1


async def test_a_full_store_is_unhealthy_until_there_is_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = False
    monkeypatch.setattr(writer_module, "has_room", lambda _: room)
    monkeypatch.setattr(writer_module, "RETRY_S", 0.01)
    await store.tx(pages_at_most(40))
    await fill(store)
    await store.tx(pages_at_most(1_000_000))
    await trio.sleep(0.1)  # some retries
    assert isinstance(store.problem(), StoreFull)
    room = True
    await until_well(store)


FULL_DISK = """
import sys, trio
from pathlib import Path
from r3mes.actors.store import open_store
from r3mes.errors import StoreFull

def blob(number):
    return lambda c: c.execute("INSERT INTO peer VALUES (?, hex(randomblob(5000)), 0)", (number,))

async def main(datadir):
    filler = datadir / "filler"
    filler.write_bytes(bytes(3_000_000))
    acked = 0
    async with open_store(datadir) as store:
        try:
            while True:
                await store.tx(blob(acked))
                acked += 1
        except StoreFull as error:
            print(error)
        assert isinstance(store.problem(), StoreFull), store.problem()
        filler.unlink()
        with trio.fail_after(5):
            while store.problem():
                await trio.sleep(0.02)
        await store.tx(blob(acked))
    async with open_store(datadir) as store:
        rows = await store.read(lambda c: c.execute("SELECT count(*) FROM peer").fetchone()[0])
        assert rows == acked + 1 > 1, (rows, acked)
    print("recovered")

trio.run(main, Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """On a tmpfs of 6 MB in a namespace of its own, where the system lets us make one."""
    inside = f'mount -t tmpfs -o size=6m none "{tmp_path}" && exec "$0" -c "$1" "{tmp_path}"'
    command = ["unshare", "-rm", "sh", "-c", inside, sys.executable, FULL_DISK]
    try:
        subprocess.run([*command[:2], "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no user namespaces here")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "R3-STORE-003" in done.stdout
    assert done.stdout.endswith("recovered\n")


async def test_a_foreign_lock_is_reported_in_time_and_stalls_nobody(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    def counted(connection: Connection, **batch: Any) -> Any:
        nonlocal attempts
        attempts += 1
        return write_batch(connection, **batch)

    monkeypatch.setattr(writer_module, "write_batch", counted)
    with closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        refused = []

        async def caller(number: int) -> None:
            with pytest.raises(StoreBusy, match="write lock"):
                await store.tx(blob(number))
            refused.append(number)

        ticks = 0
        async with trio.open_nursery() as nursery:
            for number in range(200):  # more than one batch
                nursery.start_soon(caller, number)
            while len(refused) < 200:
                await trio.sleep(0.01)
                ticks += 1
        assert ticks >= 10  # the loop ran on while the thread waited for the lock
        assert attempts <= 2  # each waits 500 ms; four batches would have kept callers for 2 s
        assert isinstance(store.problem(), StoreBusy)
        foreign.execute("ROLLBACK")
    await store.tx(blob(0))
    assert store.problem() is None


async def test_a_foreign_lock_that_ends_is_noticed_without_a_caller(
    store: Store, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy):
            await store.tx(blob(0))
        await store.answers()  # that it cannot write is an answer; a watchdog must not kill for it
    await until_well(store)
    await store.answers()


async def test_a_writer_that_hangs_does_not_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()
    monkeypatch.setattr(client_module, "ANSWER_S", 0.2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.tx, lambda connection: hangs.wait())
        await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(AskTimeout):
            await store.answers()
        hangs.set()


def damage(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(os.urandom(3000))


@pytest.mark.parametrize("offset", [0, 4096 * 3])
async def test_a_damaged_file_is_refused_and_the_backup_named(tmp_path: Path, offset: int) -> None:
    async with open_store(tmp_path) as store:
        for number in range(20):
            await store.tx(blob(number))
    (tmp_path / BACKUPS).mkdir()
    saved = tmp_path / BACKUPS / "pre-v1.sqlite3"
    saved.touch()
    damage(tmp_path / DATABASE, offset)
    with pytest.raises(StoreCorrupt) as refused:
        async with open_store(tmp_path):
            pass
    assert str(saved) in str(refused.value)
    assert str(tmp_path / DATABASE) in str(refused.value)


async def test_damage_found_later_ends_the_actor(tmp_path: Path) -> None:
    """The supervisor's next incarnation finds it with quick_check and does not start."""
    store = Store(tmp_path)
    with pytest.RaisesGroup(StoreCorrupt, flatten_subgroups=True), trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            await store.tx(rows)
            await store.tx(lambda c: c.execute("PRAGMA shrink_memory"))
            damage_wal(tmp_path)
            with pytest.raises(StoreCorrupt):
                await store.tx(count)
            await trio.sleep_forever()


def rows(connection: Connection) -> None:
    values = [(str(number),) for number in range(300)]
    connection.executemany("INSERT INTO peer VALUES (?, hex(randomblob(900)), 0)", values)


def damage_wal(datadir: Path) -> None:
    wal = datadir / (DATABASE + "-wal")
    for page in range(2, wal.stat().st_size // 4120):
        damage(wal, 32 + page * 4120 + 24)


TAKE = """
import sys, trio
from pathlib import Path
from r3mes.actors.store import open_store
async def main():
    async with open_store(Path(sys.argv[1])):
        print("open", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


@pytest.mark.slow
async def test_two_processes_on_one_directory(tmp_path: Path) -> None:
    """The second is told the first one's pid; a killed holder holds nothing."""
    command = [sys.executable, "-c", TAKE, str(tmp_path)]
    with subprocess.Popen(  # noqa: ASYNC220  nothing else runs on this loop
        command, stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "open\n"
            with pytest.raises(DataDirLocked, match=f"pid {holder.pid}"):
                async with open_store(tmp_path):
                    pass
        finally:
            holder.kill()
    async with open_store(tmp_path) as store:
        assert await store.read(count) == 0


async def test_a_data_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be used: Not a directory"):
        async with open_store(tmp_path / "file" / "data"):
            pass


async def test_a_disk_too_full_for_the_pid_opens_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "pwrite", full)
    async with open_store(tmp_path) as store:
        assert await store.read(count) == 0
        with pytest.raises(DataDirLocked, match="pid unknown"):
            async with open_store(tmp_path):
                pass


async def test_a_retry_that_fails_by_itself_is_no_recovery(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of one statement leaves the commit of its batch whole."""
    tries = 0

    def touch(_connection: Connection) -> None:
        nonlocal tries
        tries += 1
        error = sqlite3.OperationalError("read-only")
        error.sqlite_errorcode = sqlite3.SQLITE_READONLY
        raise error

    well: list[bool] = []
    monkeypatch.setattr(writer_module, "RETRY_S", 0.01)
    monkeypatch.setattr(writer_module, "_touch", touch)
    with pytest.raises(StoreError):
        await store.tx(touch)
    with trio.fail_after(5):
        while tries < 5:
            await trio.sleep(0.001)
            well.append(store.problem() is None)
    assert not any(well)


def test_what_an_error_tells_of_the_store(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert isinstance(condition(OSError(number, "no room"), path), StoreFull)
    assert type(condition(OSError(errno.EROFS, "read-only"), path)) is StoreError
    assert condition(sqlite3.IntegrityError("mine"), path) is None
    assert condition(KeyError("mine"), path) is None


async def test_a_path_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / DATABASE).mkdir()
    with pytest.raises(StoreError, match="unable to open"):
        async with open_store(tmp_path):
            pass
