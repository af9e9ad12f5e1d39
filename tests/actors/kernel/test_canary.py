"""The canary: it sees a blocked loop, and costs nothing while the loop is idle."""

from __future__ import annotations

import time

import trio
import trio.lowlevel

from r3mes.actors.kernel.canary import Canary


async def test_a_blocked_loop_shows(nursery: trio.Nursery) -> None:
    canary = Canary(interval=0.01)
    await nursery.start(canary.run)
    time.sleep(0.06)  # noqa: ASYNC251  somebody forgets that the loop is shared
    while not canary.statistics().samples:
        await trio.lowlevel.checkpoint()
    assert canary.statistics().max_ms >= 40


async def test_an_idle_loop_has_no_lag_and_memory_is_bounded(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    told: list[float] = []
    canary = Canary(interval=0.1, memory=50, on_wake=told.append)
    assert canary.statistics().samples == 0
    await nursery.start(canary.run)
    await trio.sleep(60)
    lag = canary.statistics()
    assert lag.samples == 50
    assert len(told) > 500
    assert lag.p50_ms <= lag.p99_ms <= lag.max_ms < 0.001
