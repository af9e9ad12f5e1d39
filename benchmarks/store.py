"""The store: what group commit gains, and that nothing acknowledged is lost.

``python -m benchmarks.store --json``.  It works in a folder beside where it is started, because a
tmpfs would make fsync free; ``filesystem`` in the result says where that was.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from benchmarks.kill9 import Kill, kills
from benchmarks.powercut import Verdict, cuts, record
from benchmarks.report import arguments, machine, print_result, say
from r3mes.actors.store import Connection, Transaction, open_store
from r3mes.actors.store.batch import write_batch
from r3mes.actors.store.connections import WRITER_PRAGMAS, writer
from r3mes.actors.store.migrate import migrate, shipped

WRITERS = 32
RECORDS = 6  # power cuts: databases filled, each cut at many moments

Write = Callable[[Transaction[object]], Awaitable[object]]


def main() -> None:
    options = arguments("Group commit, kill -9 and power cuts")
    with tempfile.TemporaryDirectory(prefix=".bench-store-", dir=Path.cwd()) as folder:
        figures: dict[str, object] = {"filesystem": filesystem(Path(folder))}
        figures |= trio.run(throughput, Path(folder), *((3, 1.0) if options.quick else (7, 3.0)))
        figures |= durability(Path(folder), *((10, 60) if options.quick else (50, 600)))
    print_result(figures | {"machine": machine(), "quick": options.quick})


async def throughput(folder: Path, rounds: int, seconds: float) -> dict[str, object]:
    """Grouped and single in turn; the medians of the rounds."""
    grouped_tps, single_tps, latencies = [], [], []
    for number in range(rounds):
        grouped = await grouped_round(folder / f"grouped-{number}", seconds)
        single = await single_round(folder / f"single-{number}", seconds)
        grouped_tps.append(len(grouped) / seconds)
        single_tps.append(len(single) / seconds)
        latencies += grouped
        say(f"round {number + 1}/{rounds}: {grouped_tps[-1]:.0f} tps grouped, "
            f"{single_tps[-1]:.0f} one fsync each")  # fmt: skip
    ratios = [ours / theirs for ours, theirs in zip(grouped_tps, single_tps, strict=True)]
    return {
        "writers": WRITERS,
        "grouped_tps": round(statistics.median(grouped_tps)),
        "single_tps": round(statistics.median(single_tps)),
        "ratio": round(statistics.median(ratios), 2),
        "p50_ms": round(percentile(latencies, 0.50) * 1000, 2),
        "p99_ms": round(percentile(latencies, 0.99) * 1000, 2),
        "rounds": [
            [round(ours), round(theirs)]
            for ours, theirs in zip(grouped_tps, single_tps, strict=True)
        ],
    }


async def grouped_round(datadir: Path, seconds: float) -> list[float]:
    async with open_store(datadir) as store:
        return await load(store.tx, seconds)


async def single_round(datadir: Path, seconds: float) -> list[float]:
    """The rival: the same connection and transactions, each committed by itself."""
    datadir.mkdir()  # noqa: ASYNC240  nothing else runs yet
    async with writer(datadir / "single.sqlite3") as connection:
        await connection.run(lambda c: migrate(c, datadir, shipped()))

        async def write(fn: Transaction[object]) -> object:
            (result,) = await connection.run(partial(write_batch, transactions=[fn]))
            return result.unwrap()

        return await load(write, seconds)


async def load(write: Write, seconds: float) -> list[float]:
    """All writers write for a while; returns each transaction's latency in seconds."""
    latencies: list[float] = []

    async def writes(first: int) -> None:
        number = first
        while True:
            begun = trio.current_time()
            await write(partial(insert, number))
            latencies.append(trio.current_time() - begun)
            number += WRITERS

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for first in range(WRITERS):
                nursery.start_soon(writes, first)
    return latencies


def insert(number: int, connection: Connection) -> None:
    """A row of some 256 bytes, and a counter that all share."""
    connection.execute("INSERT INTO peer VALUES (?, ?, 0)", (str(number), "x" * 256))
    connection.execute(
        "INSERT INTO peer VALUES ('counter', '', 1)"
        " ON CONFLICT DO UPDATE SET last_seen_ms = last_seen_ms + 1"
    )


def durability(folder: Path, kill_count: int, cut_count: int) -> dict[str, object]:
    """kill -9 and power cuts; a loss is counted, wherever it happened."""
    killed = list(kills(kill_count, folder / "kill9", seed=1))
    say(f"{len(killed)} kills: {sum(kill.acked for kill in killed)} acknowledged")
    powered = power_cuts(folder, cut_count)
    say(f"{len(powered)} power cuts: {sum(cut.acked for cut in powered)} acknowledged")
    control = power_cuts(folder, cut_count // 6, synchronous="NORMAL")
    both: list[Kill | Verdict] = [*killed, *powered]
    return {
        "kills": len(killed),
        "powercuts": len(powered),
        "acked": sum(each.acked for each in both),
        "acked_lost": sum(each.acked_lost for each in both),
        "corrupt": sum(each.corrupt for each in both),
        "reopen_max_ms": round(max(kill.reopen_ms for kill in killed), 1),
        "control_normal_cuts": len(control),  # the model has teeth: here it must find losses
        "control_normal_cuts_with_loss": sum(cut.acked_lost > 0 for cut in control),
    }


def power_cuts(folder: Path, count: int, *, synchronous: str = "FULL") -> list[Verdict]:
    verdicts: list[Verdict] = []
    surviving = folder / "powercut"
    surviving.mkdir(exist_ok=True)
    pragmas = [pragma.replace("FULL", synchronous) for pragma in WRITER_PRAGMAS]
    for seed in range(RECORDS):
        share = math.ceil((count - len(verdicts)) / (RECORDS - seed))
        verdicts += cuts(record(seed, pragmas=pragmas), share, seed, surviving)
    return verdicts


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def filesystem(folder: Path) -> str:
    """The type of the filesystem under ``folder``, as mounted."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    under = [(len(point), kind) for point, kind in mounts if _is_under(folder, point)]
    return max(under)[1]


def _is_under(folder: Path, mount: str) -> bool:
    return os.path.commonpath([folder.resolve(), mount]) == mount


if __name__ == "__main__":
    main()
