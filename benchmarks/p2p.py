"""What the network adds to an answer, and what attacks cost a node.

A server and a gateway run as processes.  The same request is asked of the server itself and of the
gateway, which has to ask the server, in turn within one run.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import trio

from benchmarks.abuse import all_attacks
from benchmarks.daemons import Daemon
from benchmarks.report import arguments, machine, print_result, say

QUESTION = [{"role": "user", "content": "What is a receipt?"}]
ROUNDS, QUICK_ROUNDS = 150, 12
WARM = 3


@dataclass(frozen=True, slots=True)
class Timing:
    """One streamed answer, in milliseconds."""

    first_ms: float
    total_ms: float


def ask(daemon: Daemon) -> Timing:
    """Stream one greedy answer to its end."""
    started = time.perf_counter()
    first = 0.0
    stream = daemon.openai().chat.completions.create(
        model="builtin", messages=QUESTION, temperature=0, stream=True
    )
    for chunk in stream:
        if not first and chunk.choices and chunk.choices[0].delta.content:
            first = time.perf_counter()
    return Timing((first - started) * 1000, (time.perf_counter() - started) * 1000)


def compare(folder: Path, rounds: int) -> dict[str, object]:
    """First token and whole answer, local and routed, in turn."""
    server = Daemon(folder / "server", models=[{"id": "builtin"}]).start()
    gateway = Daemon(folder / "gateway", p2p={"bootstrap": [server.running.p2p[0]]}).start()
    try:
        gateway.wait_for_model("builtin")
        for daemon in (server, gateway) * WARM:
            ask(daemon)
        local, routed = [], []
        for number in range(rounds):
            local.append(ask(server))
            routed.append(ask(gateway))
            if number % 25 == 0:
                say(f"{number} of {rounds} rounds")
        lags = [
            daemon.get("/node/status").json()["loop_lag_p99_ms"] for daemon in (server, gateway)
        ]
    finally:
        gateway.end()
        server.end()
    return _figures(local, routed) | {"loop_lag_p99_ms": max(lags)}


def _figures(local: list[Timing], routed: list[Timing]) -> dict[str, object]:
    first_local = median(one.first_ms for one in local)
    first_routed = median(one.first_ms for one in routed)
    extra = median(b.first_ms - a.first_ms for a, b in zip(local, routed, strict=True))
    ratio = median(b.total_ms / a.total_ms for a, b in zip(local, routed, strict=True))
    return {
        "rounds": len(local),
        "ttft_local_p50_ms": round(first_local, 2),
        "ttft_routed_p50_ms": round(first_routed, 2),
        "extra_p50_ms": round(extra, 2),
        "extra_total_ratio": round(ratio, 3),
    }


def main() -> None:
    """Run everything and print the figures."""
    options = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory(prefix="r3mes-bench-") as folder:
        figures = compare(Path(folder), QUICK_ROUNDS if options.quick else ROUNDS)
    say(str(figures))
    figures |= trio.run(partial(all_attacks, quick=options.quick))
    print_result(figures | machine())


if __name__ == "__main__":
    main()
