"""Ten times more requests than a node can answer, from clients that do not wait for one another."""

from __future__ import annotations

import json
import math
import re
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import trio

from benchmarks.acked import chat, lost, receipt_id
from benchmarks.daemons import Daemon, endless_model
from benchmarks.histograms import look, quantile_between
from benchmarks.report import say

TOKENS = 192
"""Of each answer: long enough that asking costs little beside it."""
TIMES_CAPACITY = 10
SLOTS = 4
HEAD = re.compile(rb"HTTP/1\.1 (\d+).*?\r\ncontent-length: (\d+).*?\r\n\r\n", re.DOTALL)
LAG = "r3mes_event_loop_lag_seconds"
DEADLINE_S = 30.0
"""From a request until its answer must have begun."""


@dataclass(slots=True)
class Crowd:
    """Answers and refusals, each with the seconds that they took."""

    answered_s: list[float] = field(default_factory=list)
    shed_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    receipts: list[str] = field(default_factory=list)


def overload(folder: Path, *, seconds: float) -> dict[str, Any]:
    """Goodput over capacity, and what answers and refusals take.

    Capacity is what clients get who each wait for their answer before they ask again, measured
    before and after the crowd.
    """
    models = [{"id": str(endless_model(folder.with_name("endless"))), "name": "endless"}]
    limits = {"slots": SLOTS, "rpm_per_key": 0, "rpm_per_address": 0}
    node = Daemon(folder, models=models, limits=limits).start().wait_for_model("endless")
    try:
        begun = look(node, LAG)
        time.sleep(seconds / 6)
        idle = look(node, LAG)
        before = trio.run(_capacity, node, seconds / 2)
        quiet = look(node, LAG)
        crowd = trio.run(_crowd, node, before * TIMES_CAPACITY, seconds)
        loaded, waited = look(node, LAG), look(node, "r3mes_queue_wait_seconds")
        after = trio.run(_capacity, node, seconds / 2)
    finally:
        node.end()
    capacity, goodput = (before + after) / 2, len(crowd.answered_s) / seconds
    say(f"capacity {before:.2f} and {after:.2f}/s, {len(crowd.shed_s)} shed, {crowd.failed[:3]}")
    return {
        "overload_goodput_ratio": round(goodput / capacity, 3),
        "overload_p99_ms": round(_p99(crowd.answered_s) * 1000, 1),
        "overload_offered_per_s": round(before * TIMES_CAPACITY, 1),
        "overload_failed": len(crowd.failed),
        "overload_late_work": waited[math.inf] - waited[DEADLINE_S],
        "loop_lag_idle_p99_ms": round(quantile_between(begun, idle, 0.99) * 1000, 2),
        "loop_lag_loaded_p99_ms": round(quantile_between(quiet, loaded, 0.99) * 1000, 2),
        "shed": len(crowd.shed_s),
        "shed_p50_ms": round(statistics.median(crowd.shed_s or [0.0]) * 1000, 1),
        "shed_p99_ms": round(_p99(crowd.shed_s) * 1000, 1),
        "acked_lost": lost(folder, crowd.receipts),
    }


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)] if values else 0.0


async def _capacity(node: Daemon, seconds: float) -> float:
    """Answers per second to one client more than there are slots: one always waits."""
    counted = Crowd()
    client = Connections(node)
    async with trio.open_nursery() as nursery:

        async def keep_asking() -> None:
            while True:
                await _ask(client, counted)

        await _ask(client, Crowd())
        for _ in range(SLOTS + 1):
            nursery.start_soon(keep_asking)
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    return len(counted.answered_s) / seconds


async def _crowd(node: Daemon, rate: float, seconds: float) -> Crowd:
    """Poisson arrivals; answers count when they end before the time is up."""
    crowd, random = Crowd(), Random(1)  # noqa: S311  arrivals, not secrets
    client = Connections(node)
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(seconds):
            while True:
                nursery.start_soon(partial(_ask, client, crowd))
                await trio.sleep(random.expovariate(rate))
        nursery.cancel_scope.cancel()
    return crowd


class Connections:
    """Connections to one node, kept; a client library would cost more than a refusal does."""

    def __init__(self, node: Daemon) -> None:
        host, _, port = node.running.api.rpartition(":")
        self._host, self._port = host, int(port)
        self._idle: list[trio.SocketStream] = []
        body = json.dumps(chat("endless", TOKENS)).encode()
        lines = {**node.headers, "host": host, "content-type": "application/json",
                 "content-length": str(len(body))}  # fmt: skip
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._request = f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + body

    async def ask(self) -> tuple[int, bytes]:
        """The status and the body of one answer."""
        while self._idle:
            stream = self._idle.pop()
            with suppress(trio.BrokenResourceError, EOFError):  # it was idle for too long
                return await self._over(stream)
        return await self._over(await trio.open_tcp_stream(self._host, self._port))

    async def _over(self, stream: trio.SocketStream) -> tuple[int, bytes]:
        await stream.send_all(self._request)
        data = b""
        while not (head := HEAD.match(data)) or len(data) < head.end() + int(head[2]):
            more = await stream.receive_some(65536)
            if not more:
                raise EOFError
            data += more
        self._idle.append(stream)
        return int(head[1]), data[head.end() :]


async def _ask(connections: Connections, crowd: Crowd) -> None:
    begun = time.perf_counter()
    try:
        status, body = await connections.ask()
    except (OSError, EOFError, trio.BrokenResourceError) as error:
        crowd.failed.append(repr(error))
        return
    took = time.perf_counter() - begun
    if status == 200:
        crowd.answered_s.append(took)
        crowd.receipts.append(receipt_id(json.loads(body)))
    elif status in {429, 503}:
        crowd.shed_s.append(took)
    else:
        crowd.failed.append(body.decode())
