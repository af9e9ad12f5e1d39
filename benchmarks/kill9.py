"""kill -9 on a process that writes through the store, and what its successor finds.

The victim prints the number of each pair of rows after the store has acknowledged it; whatever
the pipe holds when it is dead was promised.  Run as a program it is the victim:
``python -m benchmarks.kill9 DATADIR FIRST``.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from r3mes.actors.store import Connection, open_store
from r3mes.errors import StoreError

REPOSITORY = Path(__file__).resolve().parent.parent
WRITERS = 16
LONGEST_LIFE_S = 0.25


@dataclass(frozen=True, slots=True)
class Kill:
    """What one kill did: pairs promised, promised ones missing, and a damaged or halved file."""

    acked: int
    acked_lost: int
    corrupt: bool
    reopen_ms: float


def kills(count: int, datadir: Path, seed: int) -> Iterator[Kill]:
    """Kill ``count`` victims one after the other on the same data."""
    rng = random.Random(seed)  # noqa: S311  not for secrets
    promised: set[int] = set()
    for number in range(count):
        fresh = _kill(datadir, number * 10_000_000, rng.uniform(0, LONGEST_LIFE_S))
        promised |= fresh
        try:
            counts, reopen_ms = trio.run(_found, datadir)
        except StoreError:
            yield Kill(len(fresh), len(promised), corrupt=True, reopen_ms=0.0)
            return
        halved = set(counts.values()) - {2}
        yield Kill(len(fresh), len(promised - set(counts)), bool(halved), reopen_ms)


def _kill(datadir: Path, first: int, life_s: float) -> set[int]:
    """Let a victim write for a while after its first acknowledgement; returns what it promised."""
    command = [sys.executable, "-m", "benchmarks.kill9", str(datadir), str(first)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        head = victim.stdout.readline()
        time.sleep(life_s)
        victim.kill()
        rest = victim.stdout.read()
    return {int(line) for line in (head + rest).splitlines()}


async def _found(datadir: Path) -> tuple[dict[int, int], float]:
    """The rows of each pair, and the milliseconds until the store was open."""
    begun = time.perf_counter()
    async with open_store(datadir) as store:
        took_ms = (time.perf_counter() - begun) * 1000
        return await store.read(_pairs, timeout=60), took_ms


def _pairs(connection: Connection) -> dict[int, int]:
    return dict(connection.execute("SELECT last_seen_ms, count(*) FROM peer GROUP BY 1"))


def _pair(number: int, connection: Connection) -> None:
    for half in "ab":
        connection.execute("INSERT INTO peer VALUES (?, '[]', ?)", (f"{half}{number}", number))


async def _victim(datadir: Path, first: int) -> None:
    numbers = itertools.count(first)

    async def write() -> None:
        for number in numbers:
            await store.tx(partial(_pair, number))
            os.write(1, b"%d\n" % number)  # whole or not at all: shorter than PIPE_BUF

    async with open_store(datadir) as store, trio.open_nursery() as nursery:
        for _ in range(WRITERS):
            nursery.start_soon(write)


if __name__ == "__main__":
    trio.run(_victim, Path(sys.argv[1]), int(sys.argv[2]))
