"""The actor kernel: rate of asks, crash to next answer, leaks, and the seeded simulation."""

from __future__ import annotations

import gc
import os
import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import trio

from benchmarks.report import arguments, machine, print_result, say
from benchmarks.simulation import RECOVERY, Outcome, silent, simulate
from r3mes.actors.kernel.actor import Actor
from r3mes.actors.kernel.backoff import Backoff
from r3mes.actors.kernel.child import ChildSpec
from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.actors.kernel.supervisor import Supervisor
from r3mes.errors import ActorCrashed

CALLERS = (1, 16, 128)
ASKS = 30_000  # a run
RUNS = 5
REPEATED = 3  # seeds that are run a second time, to compare their logs
WARM_UP = 1000  # restarts before memory is looked at for the first time


@dataclass(frozen=True, slots=True)
class Echo(Ask[int]):
    """Answer with the number; crash if it is negative."""

    number: int


class Echoer(Actor[Echo]):
    async def handle(self, message: Echo) -> None:
        if message.number < 0:
            raise ZeroDivisionError
        message.reply(message.number)


async def asks_per_s(callers: int, asks: int) -> float:
    box: Mailbox[Echo] = Mailbox("echo", capacity=256)

    async def caller() -> None:
        for number in range(asks // callers):
            await box.ask(Echo(number), timeout=10)

    async with trio.open_nursery() as nursery:
        await nursery.start(Echoer(box).run)
        start = time.perf_counter()
        async with trio.open_nursery() as all_callers:
            for _ in range(callers):
                all_callers.start_soon(caller)
        took = time.perf_counter() - start
        nursery.cancel_scope.cancel()
    return asks / took


def ask_figures() -> dict[str, object]:
    """The best of five runs each: what others do on the machine only makes them slower."""
    say("asks …")
    cpu = time.process_time()
    rates = [[trio.run(asks_per_s, callers, ASKS) for _ in range(RUNS)] for callers in CALLERS]
    cpu_us = (time.process_time() - cpu) / (ASKS * RUNS * len(CALLERS)) * 1e6
    one, some, many = (round(max(runs)) for runs in rates)
    say(f"  {some} a second with {CALLERS[1]} callers, {cpu_us:.1f} µs of CPU each")
    return {
        "ask_per_s": some,
        "ask_1_caller_per_s": one,
        "ask_128_callers_per_s": many,
        "ask_cpu_us": round(cpu_us, 1),
    }


async def crash_figures(times: int = 10_000) -> dict[str, object]:
    """Crash a supervised actor and ask it again at once, ``times`` times after a warm-up."""
    say("crashes …")
    box: Mailbox[Echo] = Mailbox("echo")

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        await Echoer(box).run(task_status=task_status)

    spec = ChildSpec("echo", run, backoff=Backoff(base=0.0))
    supervisor = Supervisor("bench", [spec], intensity=10**9, period=0.01)
    answer_ms = array("d", [0.0] * times)  # all its memory at once: what grows is the kernel's
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        for _ in range(WARM_UP):
            await _crash_to_answer_ms(box)
        before = rss_kb()
        for number in range(times):
            answer_ms[number] = await _crash_to_answer_ms(box)
        growth = rss_kb() - before
        [child] = supervisor.statistics()
        nursery.cancel_scope.cancel()
    say(f"  {median(answer_ms):.3f} ms to the next answer")
    return {
        "crash_to_answer_p50_ms": round(median(answer_ms), 4),
        "crash_to_answer_p99_ms": round(quantiles(answer_ms, n=100)[98], 4),
        "restarts": child.restarts - WARM_UP,
        "rss_growth_kb": growth,
    }


async def _crash_to_answer_ms(box: Mailbox[Echo]) -> float:
    start = time.perf_counter()
    try:
        await box.ask(Echo(-1), timeout=10)
    except ActorCrashed:
        await box.ask(Echo(1), timeout=10)
    return (time.perf_counter() - start) * 1000


def rss_kb() -> int:
    """Resident memory of this process, after what can be freed is freed."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def simulation_figures(seeds: int, seconds: float = 600.0) -> dict[str, object]:
    say(f"simulation, {seeds} seeds of {seconds:.0f} virtual seconds …")
    began = time.perf_counter()
    outcomes = [_simulate(seed, seconds) for seed in range(seeds)]
    took = time.perf_counter() - began
    again = [simulate(one.seed, seconds).log_hash for one in outcomes[:REPEATED]]
    return {
        "sim_seeds": len(outcomes),
        "sim_seconds": seconds,
        "sim_hangs": sum(one.hangs for one in outcomes),
        "sim_late_asks": sum(one.late for one in outcomes),
        "sim_answered": sum(one.answered for one in outcomes),
        "sim_restarts": sum(one.restarts for one in outcomes),
        "sim_same_seed_same_log": again == [one.log_hash for one in outcomes[:REPEATED]],
        "sim_times_real_time": round(seeds * (seconds + RECOVERY) / took),
    }


def _simulate(seed: int, seconds: float) -> Outcome:
    outcome = simulate(seed, seconds)
    if seed % 10 == 9:
        say(f"  {seed + 1} seeds")
    return outcome


def main() -> None:
    quick = arguments(__doc__ or "").quick
    facts = machine()
    with silent("r3mes.actors.kernel"):
        figures = ask_figures() | trio.run(crash_figures) | simulation_figures(10 if quick else 50)
    print_result(figures | facts)


if __name__ == "__main__":
    main()
