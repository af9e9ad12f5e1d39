"""Our engine beside those that people would run instead: the same models, prompts and loads.

Two models of the Llama architecture with random weights in bf16, prompts of 64 tokens, 64 new
tokens, sampled; 1, 4 and 16 requests at once, and requests that arrive by chance.  Ours is a whole
daemon, asked through its HTTP API.  Every engine may use both cores; they take turns within a round
and are suspended while another is measured.

    python -m benchmarks.inference --json

A full run installs rivals that are not there, into environments of their own under the cache
(`--cache`; 12 GB with their libraries).  What cannot be installed or started is named in
``not_measured``.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import platformdirs
import trio

from benchmarks.adapters import adapters_ratio
from benchmarks.asking import Answer, Arrival, at_once, by_chance
from benchmarks.bandwidth import read_rate
from benchmarks.contestants import OURS, Contestant, Entry, OurDaemon, alone, entries, tree_peak_mb
from benchmarks.crowd import overload
from benchmarks.prefix import prefix_speedup
from benchmarks.report import arguments, machine, print_result, say
from benchmarks.rivals.install import Rivals
from benchmarks.shapes import LARGE, SMALL, Shape, build, prompt
from benchmarks.summary import (
    LOADS,
    POISSON,
    Row,
    as_json,
    ratio,
    ratios,
    ratios_by_load,
    reasons,
    timings,
)

T = TypeVar("T")
PROMPT_TOKENS = 64
ROUNDS, QUICK_ROUNDS = 3, 1
POISSON_S, QUICK_POISSON_S = 4.0, 2.0
OVERLOAD_S, QUICK_OVERLOAD_S = 60, 3
PREFIX_PAIRS, QUICK_PREFIX_PAIRS = 5, 2
ADAPTER_ROUNDS, QUICK_ADAPTER_ROUNDS = 3, 1
QUICK_ENGINES = (OURS,)
PAUSE_S = 0.2
"""After a change of turns, for those that were woken to find their feet."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    shapes: Sequence[Shape]
    rounds: int
    poisson_s: float
    overload_s: float
    prefix_pairs: int
    adapter_rounds: int


FULL = Extent((SMALL, LARGE), ROUNDS, POISSON_S, OVERLOAD_S, PREFIX_PAIRS, ADAPTER_ROUNDS)
QUICK = Extent(
    (SMALL,),
    QUICK_ROUNDS,
    QUICK_POISSON_S,
    QUICK_OVERLOAD_S,
    QUICK_PREFIX_PAIRS,
    QUICK_ADAPTER_ROUNDS,
)


@dataclass(slots=True)
class Found:
    """What has been measured so far, and what could not be."""

    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    worker_peak_mb: dict[str, float] = field(default_factory=dict)
    native: dict[str, str] = field(default_factory=dict)
    prefix_speedup: float | None = None
    adapters_ratio: float | None = None


def compare(shape: Shape, who: Sequence[Entry], cache: Path, extent: Extent, found: Found) -> None:
    """One model on all engines in turn."""
    model = build(shape, cache)
    with tempfile.TemporaryDirectory(prefix="r3mes-bench-") as folder:
        with _running(who, model, Path(folder), found) as running:
            plays = _play_all(shape, running, extent, found)
            for entry, contestant in running.items():
                found.rows += _rows(shape, entry, plays[entry.engine], tree_peak_mb(contestant))
                say(f"{shape.name} {entry.engine}: {_rates(found.rows)}")
            _look_at_ours(shape, running, extent, found)


@contextmanager
def _running(
    who: Sequence[Entry], model: Path, folder: Path, found: Found
) -> Iterator[dict[Entry, Contestant]]:
    """Start everybody, one after the other; those that do not start are noted and left out."""
    running: dict[Entry, Contestant] = {}
    try:
        for entry in who:
            own = folder / entry.engine
            own.mkdir()
            begun = time.perf_counter()
            try:
                running[entry] = entry.open(model, own)
                alone([*running.values()], running[entry])
                _warm(running[entry])
            except Exception as error:  # noqa: BLE001  others go on without it
                _drop(entry, running, found, error)
            else:
                say(f"{entry.engine} is ready after {time.perf_counter() - begun:.0f} s")
        yield running
    finally:
        for contestant in running.values():
            contestant.end()


def _warm(contestant: Contestant) -> None:
    """First requests are slow everywhere: caches, lazy imports, compilers."""
    random = Random(0)  # noqa: S311  words, not secrets
    for load in (1, *map(int, LOADS)):
        texts = [prompt(random, PROMPT_TOKENS) for _ in range(load)]
        trio.run(contestant.play, at_once(texts))


def _drop(
    entry: Entry, running: dict[Entry, Contestant], found: Found, error: BaseException
) -> None:
    inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
    found.missing[entry.engine] = str(inner)[:300] or type(inner).__name__
    say(f"{entry.engine} is left out: {found.missing[entry.engine]}")
    if contestant := running.pop(entry, None):
        contestant.end()


def _play_all(
    shape: Shape, running: dict[Entry, Contestant], extent: Extent, found: Found
) -> dict[str, dict[str, list[list[Answer]]]]:
    """Plays by engine and load; in every round each engine gets the same prompts."""
    plays: dict[str, dict[str, list[list[Answer]]]] = defaultdict(lambda: defaultdict(list))
    for number in range(extent.rounds):
        program = _program(shape, extent, number + 1)
        for entry, contestant in rotated([*running.items()], number):
            alone([*running.values()], contestant)
            time.sleep(PAUSE_S)
            try:
                for load, arrivals in program:
                    plays[entry.engine][load].append(trio.run(contestant.play, arrivals))
            except Exception as error:  # noqa: BLE001  others go on without it
                plays.pop(entry.engine, None)
                _drop(entry, running, found, error)
        say(f"{shape.name}: round {number + 1} of {extent.rounds}")
    return plays


def rotated(who: Sequence[T], by: int) -> list[T]:
    """The order in another round, so that nobody is always the first, on a machine that cools."""
    start = by % len(who) if who else 0
    return [*who[start:], *who[:start]]


def _program(shape: Shape, extent: Extent, seed: int) -> list[tuple[str, list[Arrival]]]:
    """The plays of one round."""
    random = Random(seed)  # noqa: S311  words and arrivals, not secrets

    def texts(count: int) -> list[str]:
        return [prompt(random, PROMPT_TOKENS) for _ in range(count)]

    program = [
        (load, at_once(texts(int(load))))
        for load, repeats in zip(LOADS, shape.repeats, strict=True)
        for _ in range(repeats)
    ]
    by_the_way = texts(round(shape.poisson_per_s * extent.poisson_s))
    return [*program, (POISSON, by_chance(by_the_way, shape.poisson_per_s, random))]


def _rows(
    shape: Shape, entry: Entry, plays: dict[str, list[list[Answer]]], rss_mb: float
) -> Iterator[Row]:
    about = (entry.engine, entry.via, shape.name, entry.precision)
    for load in (*LOADS, POISSON):
        yield Row(*about, load, *timings(plays[load]), rss_mb=round(rss_mb))


def _rates(rows: Sequence[Row]) -> str:
    last = rows[-len(LOADS) - 1 :]
    return ", ".join(f"{row.load}: {row.tok_per_s}/s" for row in last)


def _look_at_ours(
    shape: Shape, running: dict[Entry, Contestant], extent: Extent, found: Found
) -> None:
    """What only a node has: a worker's memory and a cache of beginnings."""
    for entry, contestant in running.items():
        if isinstance(contestant, OurDaemon):
            name = f"{entry.engine}_{shape.name}"
            found.worker_peak_mb[name] = round(contestant.worker_peak_mb)
            found.native[name] = contestant.native
            if entry.engine == OURS:
                alone([*running.values()], contestant)
                found.prefix_speedup = prefix_speedup(contestant, extent.prefix_pairs)


def _look_at_adapters(
    shape: Shape, cache: Path, folder: Path, extent: Extent, found: Found
) -> None:
    try:
        found.adapters_ratio = adapters_ratio(
            shape, build(shape, cache), folder, extent.adapter_rounds
        )
    except Exception as error:  # noqa: BLE001  the other figures are worth having
        found.missing["adapters"] = str(error)[:300] or type(error).__name__


def figures(found: Found, rate: float) -> dict[str, Any]:
    """The keys that everybody relies on."""
    known = {
        "int8_ratio_batch1": found.missing.get(f"{OURS}_int8", ""),
        "openvino_engine_ratio": found.missing.get(f"{OURS}_openvino", ""),
        "bandwidth_share_batch1": f"only measured with {LARGE.name}",
        "adapters_ratio": found.missing.get("adapters", "it was not asked for"),
    }
    result: dict[str, Any] = {
        "ratios": ratios(found.rows),
        "ratios_by_load": ratios_by_load(found.rows),
        "openvino_engine_ratio": ratio(found.rows, f"{OURS}_openvino", "openvino"),
        "int8_ratio_batch1": ratio(found.rows, f"{OURS}_int8", OURS, ["1"]),
        "bandwidth_share_batch1": _bandwidth_share(found.rows, rate),
        "prefix_speedup": found.prefix_speedup,
        "adapters_ratio": found.adapters_ratio,
        "worker_peak_mb": found.worker_peak_mb,
        "native": found.native,
        "read_gb_per_s": round(rate / 1e9, 1),
    }
    missing = {**reasons(result, {**found.missing, **known}), **found.missing}
    return {"rows": as_json(found.rows), **result, "not_measured": missing}


def _bandwidth_share(rows: Sequence[Row], rate: float) -> float | None:
    """Bytes of weights read in a second by one answer alone, over what memory could give."""
    for row in rows:
        if (row.engine, row.model, row.load) == (OURS, LARGE.name, "1"):
            return round(LARGE.weight_bytes * row.tok_per_s / rate, 3)
    return None


def _who_can(rivals: Rivals, found: Found, *, quick: bool) -> list[Entry]:
    """Those who can take part; why others cannot is noted."""
    who = []
    for entry in entries(rivals):
        if entry.needs and not quick:
            rivals.install(entry.needs)
        why = rivals.missing(entry.needs) if entry.needs else ""
        if quick and entry.engine not in QUICK_ENGINES:
            why = why or "left out by --quick"
        if why:
            found.missing[entry.engine] = why
        else:
            who.append(entry)
    return who


def main() -> None:
    """Run everything and print the figures."""
    options = arguments(__doc__ or "", cache="where models and rivals are kept")
    cache = Path(options.cache or platformdirs.user_cache_path("r3mes-benchmarks"))
    extent = QUICK if options.quick else FULL
    rivals, found = Rivals(cache), Found()
    who = _who_can(rivals, found, quick=options.quick)
    before = machine()
    rate = read_rate()
    for shape in extent.shapes:
        compare(shape, who, cache, extent, found)
    rate = max(rate, read_rate())
    with tempfile.TemporaryDirectory(prefix="r3mes-bench-") as folder:
        _look_at_adapters(extent.shapes[-1], cache, Path(folder) / "adapters", extent, found)
        crowded = overload(Path(folder) / "node", seconds=extent.overload_s)
    crowded.pop("acked_lost")
    print_result(figures(found, rate) | crowded | before)


if __name__ == "__main__":
    main()
