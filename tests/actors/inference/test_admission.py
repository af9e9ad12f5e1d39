"""Admission: useful work under overload, no work for those who gave up, honest waits."""

from __future__ import annotations

import random
from collections import deque

import pytest

from r3mes.actors.inference.admission import Admission
from r3mes.errors import Overloaded

RATE, DEADLINE_S, SECONDS = 50, 2.0, 60


def simulate(load: float, seed: int) -> tuple[float, float]:
    """One server at ``load`` times its capacity; (answers in time / capacity, p99 of their time).

    Callers give up after the deadline.
    """
    rng = random.Random(seed)  # noqa: S311  a simulation
    admission = Admission(depth=1000)
    waiting: deque[float] = deque()
    times: list[float] = []
    free_at, now = 0.0, 0.0
    while now < SECONDS:
        now += rng.expovariate(RATE * load)
        while waiting and free_at <= now:
            came = waiting.popleft()
            begins = max(free_at, came)
            service = rng.uniform(0.5, 1.5) / RATE
            free_at = begins + service
            admission.served(service)
            times.append(free_at - came)
        running = int(free_at > now)
        try:
            admission.check(waiting=len(waiting), running=running, slots=1, patience_s=DEADLINE_S)
        except Overloaded:
            pass
        else:
            waiting.append(now)
    times.sort()
    in_time = sum(time <= DEADLINE_S for time in times)
    return in_time / (RATE * SECONDS), times[int(len(times) * 0.99)]


@pytest.mark.parametrize("load", [2, 10])
def test_overload_costs_no_work_and_little_patience(load: float) -> None:
    goodput, p99 = simulate(load, seed=1)
    assert goodput >= 0.95
    assert p99 <= 0.25 * DEADLINE_S


def test_one_may_wait_behind_a_long_answer() -> None:
    admission = Admission(depth=10)
    admission.served(5.0)
    admission.check(waiting=0, running=1, slots=1, patience_s=6)
    with pytest.raises(Overloaded):
        admission.check(waiting=1, running=1, slots=1, patience_s=6)
    with pytest.raises(Overloaded, match="about 5"):
        admission.check(waiting=0, running=1, slots=1, patience_s=4)


def test_a_worker_that_has_to_load_first_is_part_of_the_wait() -> None:
    admission = Admission(depth=10)
    admission.loaded(20)
    admission.check(waiting=0, running=0, slots=1, patience_s=1)
    with pytest.raises(Overloaded):
        admission.check(waiting=0, running=0, slots=1, patience_s=10, loading=True)


def test_a_free_slot_takes_a_request_though_none_may_wait() -> None:
    admission = Admission(depth=0)
    admission.check(waiting=0, running=1, slots=2, patience_s=6)
    for waiting, running in ((1, 1), (0, 2)):
        with pytest.raises(Overloaded):
            admission.check(waiting=waiting, running=running, slots=2, patience_s=6)
