"""What HTTP adds to an answer, what idle streams hold, and how long commands take.

One model runs in a daemon and once more behind the engine's own client in this process.  The same
greedy request is asked of both in turn: what HTTP, key, envelope, receipt and store add.  Streams
are idle while they wait for a slot: the worker is stopped meanwhile, so that none comes free.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import httpx
import trio

from benchmarks.daemons import Daemon, children_of, wait
from benchmarks.report import arguments, machine, print_result, say
from r3mes.actors.inference.actor import ModelActor
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.generation import GenerateJob
from r3mes.actors.inference.settings import ModelSettings

MESSAGES = [{"role": "user", "content": "What is a receipt?"}]
ROUNDS, QUICK_ROUNDS = 150, 20
STREAMS, QUICK_STREAMS = 500, 100
COMMANDS, QUICK_COMMANDS = 15, 5
WARM = 3
LIMITS = {"slots": 1, "queue": STREAMS + 1, "rpm_per_key": 0, "rpm_per_address": 0}


@dataclass(frozen=True, slots=True)
class Timing:
    """One streamed answer, in milliseconds."""

    first_ms: float
    total_ms: float


class Watch:
    """Started when made; notes the first text."""

    def __init__(self) -> None:
        self._started, self._first = time.perf_counter(), 0.0

    def text(self) -> None:
        self._first = self._first or time.perf_counter()

    def stop(self) -> Timing:
        ended = time.perf_counter()
        return Timing((self._first - self._started) * 1000, (ended - self._started) * 1000)


@asynccontextmanager
async def engine() -> AsyncIterator[InferenceClient]:
    """The built-in model without anything around it."""
    actor = ModelActor(ModelSettings("builtin", "builtin"))
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        client = InferenceClient([actor])
        await client.settled()
        yield client
        nursery.cancel_scope.cancel()


async def ask_engine(client: InferenceClient) -> Timing:
    watch = Watch()
    job = GenerateJob("builtin", MESSAGES, temperature=0)
    async with client.generate(job, deadline_s=30) as answer:
        async for chunk in answer:
            if chunk.text:
                watch.text()
    return watch.stop()


async def ask_http(client: httpx.AsyncClient) -> Timing:
    watch = Watch()
    async with client.stream("POST", "/v1/chat/completions", json=_body()) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                (choice,) = json.loads(line[6:])["choices"]
                if choice["delta"].get("content"):
                    watch.text()
    return watch.stop()


def _body() -> dict[str, object]:
    return {"model": "builtin", "messages": MESSAGES, "temperature": 0, "stream": True}


async def compare(node: Daemon, rounds: int) -> dict[str, object]:
    """First token and whole answer, both ways in turn."""
    direct, http = [], []
    async with engine() as bare, _client(node) as client:
        for _ in range(WARM):
            await ask_engine(bare)
            await ask_http(client)
        for number in range(rounds):
            direct.append(await ask_engine(bare))
            http.append(await ask_http(client))
            if number % 25 == 0:
                say(f"{number} of {rounds} rounds")
    pairs = list(zip(direct, http, strict=True))
    return {
        "rounds": rounds,
        "ttft_engine_p50_ms": round(median(one.first_ms for one in direct), 2),
        "ttft_http_p50_ms": round(median(one.first_ms for one in http), 2),
        "extra_ttft_p50_ms": round(median(b.first_ms - a.first_ms for a, b in pairs), 2),
        "extra_total_ratio": round(median(b.total_ms / a.total_ms for a, b in pairs), 3),
    }


def _client(node: Daemon) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=node.url, headers=node.headers, timeout=60, limits=limits)


async def idle(node: Daemon, streams: int) -> dict[str, object]:
    """Memory of the daemon that waiting streams take; afterwards it must answer as before."""
    (worker,) = children_of(node.running.pid)
    async with _client(node) as client:
        before = _rss_mb(node)
        os.kill(worker, signal.SIGSTOP)
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(streams + 1):  # one has the slot
                    nursery.start_soon(_wait_in_vain, client)
                queued = await trio.to_thread.run_sync(_queued, node, streams)
                taken = _rss_mb(node) - before
                nursery.cancel_scope.cancel()
        finally:
            with suppress(ProcessLookupError):  # replaced meanwhile, because it was silent
                os.kill(worker, signal.SIGCONT)
        await trio.to_thread.run_sync(_queued, node, 0)
        await ask_http(client)
    return {"idle_streams": queued, "idle_streams_mb": round(taken, 1)}


async def _wait_in_vain(client: httpx.AsyncClient) -> None:
    async with client.stream("POST", "/v1/chat/completions", json=_body()) as response:
        async for _ in response.aiter_lines():
            pass


def _queued(node: Daemon, count: int) -> int:
    """Wait until so many requests wait, and say so."""

    def look() -> int | None:
        queued = int(node.get("/node/status").json()["load"]["queued"])
        return queued if queued == count else None

    return wait(look, f"a queue of {count}")


def _rss_mb(node: Daemon) -> float:
    status = Path(f"/proc/{node.running.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def commands(node: Daemon, times: int) -> dict[str, object]:
    """What a person waits for."""
    return {
        "status_command_s": _seconds(node, times, "status"),
        "help_command_s": _seconds(node, times, "--help"),
    }


def _seconds(node: Daemon, times: int, word: str) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        ran: subprocess.CompletedProcess[str] = node.command(word, check=True)
        taken.append(time.perf_counter() - started)
        assert ran.stdout
    return round(median(taken), 3)


@contextmanager
def _node(folder: Path) -> Iterator[Daemon]:
    node = Daemon(folder, models=[{"id": "builtin"}], limits=LIMITS).start()
    try:
        yield node.wait_for_model("builtin")
    finally:
        node.end()


def main() -> None:
    """Run everything and print the figures."""
    options = arguments(__doc__ or "")
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="r3mes-bench-") as folder:
        with _node(Path(folder) / "node") as node:
            figures = trio.run(partial(compare, node, rounds))
            figures |= commands(node, QUICK_COMMANDS if options.quick else COMMANDS)
        say(str(figures))
        with _node(Path(folder) / "idle") as node:  # a new one: it expects no wait of anybody yet
            figures |= trio.run(partial(idle, node, QUICK_STREAMS if options.quick else STREAMS))
    print_result(figures | machine())


if __name__ == "__main__":
    main()
