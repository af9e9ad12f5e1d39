"""Power cuts, modelled: a disk in memory that knows what was synced, and forgets the rest at will.

kill -9 cannot show a lost write, because the kernel keeps what a dead process wrote.  So SQLite
(through apsw) runs the store's own pragmas, migrations and batches on a VFS that records every
write and sync.  A cut takes the record up to a random moment; of what no sync covers yet, each
write is kept, dropped or torn at 512-byte sectors.  The surviving bytes are then opened the way
the store opens its file.

The model: EXCLUSIVE locking (no shared memory), a synced file keeps its name, writes after the
last sync survive in any combination.  Disks that lie about their flush are outside of it.
Source: the method of SQLite's own crash tests ("How SQLite Is Tested", section 3.3).
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import apsw
import outcome

from r3mes.actors.store import DATABASE
from r3mes.actors.store.batch import Connection, Transaction, write_batch
from r3mes.actors.store.connections import WRITER_PRAGMAS, open_writer
from r3mes.actors.store.migrate import migrate, shipped

SECTOR = 512
BATCHES = 150  # enough for the WAL to pass its 1000 pages and be checkpointed and reset


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; ``kind`` is write, truncate, sync, delete or ack."""

    kind: str
    file: str
    at: int = 0  # offset, size or the number of transactions acknowledged so far
    data: bytes = b""


@dataclass(slots=True)
class File:
    """What the disk holds for certain, and what it may hold."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)

    def sync(self) -> None:
        for event in self.pending:
            _apply(self.durable, event)
        self.pending.clear()

    def after_cut(self, rng: random.Random) -> bytearray:
        """The bytes that a machine would find when it is switched on again."""
        survival = rng.choice((0.0, 0.5, 1.0, rng.random()))
        content = bytearray(self.durable)
        for event in self.pending:
            if rng.random() < survival:
                _apply(content, _torn(event, rng) if rng.random() < 0.2 else event)
        return content


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one cut did."""

    acked: int
    acked_lost: int
    corrupt: bool


def record(seed: int, *, pragmas: Sequence[str] = WRITER_PRAGMAS) -> list[Event]:
    """What the disk sees while the store's own code creates a database and fills it."""
    rng = random.Random(seed)  # noqa: S311  not for secrets
    events: list[Event] = []
    vfs = RecordingVfs(f"powercut-{seed}", events)
    with closing(apsw.Connection(DATABASE, vfs=vfs.name)) as opened:
        connection = cast("Connection", opened)  # the calls that the store makes are the same
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        for pragma in pragmas:
            connection.execute(pragma)
        migrate(connection, Path(), shipped())
        acked = 0
        for _ in range(BATCHES):
            size = rng.choice((1, 2, 8, 64))
            written = write_batch(connection, list(_batch(range(acked, acked + size), rng)))
            acked += size
            assert sum(isinstance(one, outcome.Value) for one in written) == size
            events.append(Event("ack", "", acked))
        end = len(events)
    del events[end:]  # closing checkpoints: a cut machine never gets there
    return events


def cuts(events: Sequence[Event], count: int, seed: int, folder: Path) -> Iterator[Verdict]:
    """Cut the power ``count`` times at random moments of ``events`` and judge what is left."""
    rng = random.Random(seed)  # noqa: S311  not for secrets
    files: dict[str, File] = {}
    acked = done = 0
    for moment in sorted(rng.randrange(len(events)) for _ in range(count)):
        for event in events[done:moment]:
            acked = event.at if event.kind == "ack" else acked
            _happen(files, event)
        done = moment
        yield _judge(files, acked, rng, folder)


def _batch(numbers: range, rng: random.Random) -> Iterator[Transaction[None]]:
    for number in numbers:
        yield _job(number, rng.randbytes(rng.randrange(50, 1500)))
        if rng.random() < 0.1:
            yield _fails


def _job(number: int, result: bytes) -> Transaction[None]:
    """A job and its receipt: after a cut there are both or none."""

    def write(connection: Connection) -> None:
        name = number.to_bytes(8, "big")
        connection.execute("INSERT INTO job VALUES ('s', ?, ?, 0)", (name, name))
        connection.execute(
            "INSERT INTO receipt (request_hash, role, sub, idem, peer, model, prompt_tokens,"
            " completion_tokens, price, status, result, signature, created_ms)"
            " VALUES (?, 'server', 's', ?, 'p', 'm', 1, 1, 1, 'stop', ?, x'00', ?)",
            (name, name, result, number),
        )

    return write


def _fails(connection: Connection) -> None:
    connection.execute("INSERT INTO job VALUES ('half', x'00', x'00', 0)")
    raise ValueError("undone with its savepoint")


def _judge(files: dict[str, File], acked: int, rng: random.Random, folder: Path) -> Verdict:
    for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-journal"):
        path = folder / name
        path.unlink(missing_ok=True)
        if name in files:
            path.write_bytes(files[name].after_cut(rng))
    try:
        with closing(open_writer(folder / DATABASE)) as connection:
            found = _numbers(connection, folder)
    except (sqlite3.Error, AssertionError):
        return Verdict(acked, acked, corrupt=True)
    lost = len(set(range(acked)) - found)
    return Verdict(acked, lost, corrupt=found != set(range(len(found))))


def _numbers(connection: Connection, folder: Path) -> set[int]:
    """The jobs that are there, all of them whole."""
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    migrate(connection, folder, shipped())
    jobs = {row[0] for row in connection.execute("SELECT idem FROM job")}
    receipts = {row[0] for row in connection.execute("SELECT idem FROM receipt")}
    assert jobs == receipts
    return {int.from_bytes(name, "big") for name in jobs}


def _happen(files: dict[str, File], event: Event) -> None:
    match event.kind:
        case "write" | "truncate":
            files.setdefault(event.file, File()).pending.append(event)
        case "sync":
            files.setdefault(event.file, File()).sync()
        case "delete":
            files.pop(event.file, None)


def _apply(content: bytearray, event: Event) -> None:
    if event.kind == "truncate":
        del content[event.at :]
        return
    content.extend(bytes(max(0, event.at - len(content))))
    content[event.at : event.at + len(event.data)] = event.data


def _torn(event: Event, rng: random.Random) -> Event:
    """The write broke off at some sector."""
    if event.kind != "write":
        return event
    sectors = rng.randrange(len(event.data) // SECTOR + 1)
    return Event("write", event.file, event.at, event.data[: sectors * SECTOR])


class RecordingVfs(apsw.VFS):
    """Files in memory; everything that changes them is noted in ``events``."""

    def __init__(self, name: str, events: list[Event]) -> None:
        self.name = name
        self.files: dict[str, bytearray] = {}
        self.events = events
        super().__init__(name, base="")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        flags[1] = flags[0]
        if name is None:  # a temporary file: gone after a cut
            return RecordingFile("", bytearray(), [])
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        path = Path(path).name
        return RecordingFile(path, self.files.setdefault(path, bytearray()), self.events)

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        return bool(self.files.get(Path(pathname).name))

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self.files.pop(Path(filename).name, None)
        self.events.append(Event("delete", Path(filename).name))

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return f"/{Path(name).name}"


class RecordingFile:
    """One open file; locks always succeed, as nobody else is there."""

    def __init__(self, name: str, content: bytearray, events: list[Event]) -> None:
        self._name, self._content, self._events = name, content, events

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return bytes(self._content[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._note(Event("write", self._name, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._note(Event("truncate", self._name, size))

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._events.append(Event("sync", self._name))

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._content)

    def xLock(self, level: int) -> None: ...  # noqa: N802

    def xUnlock(self, level: int) -> None: ...  # noqa: N802

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return 4096

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE  # as SQLite assumes on unix

    def xClose(self) -> None: ...  # noqa: N802

    def _note(self, event: Event) -> None:
        _apply(self._content, event)
        self._events.append(event)
