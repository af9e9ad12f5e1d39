"""A node that is stopped in the middle of answers, and one whose worker freezes."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import httpx

from benchmarks.acked import ask, chat, lost, receipt_id
from benchmarks.daemons import Daemon, children_of, endless_model
from benchmarks.report import say

STREAMS = 4
TOKENS = 120


def drains(folder: Path, *, count: int) -> dict[str, Any]:
    """SIGTERM while answers are written and wait: how often all ended whole, and with status 0."""
    node = _node(folder)
    whole, receipts = 0, []
    for number in range(count):
        node.start().wait_for_model("endless")
        begun = Barrier(STREAMS + 1)
        with ThreadPoolExecutor(STREAMS) as pool:
            streams = [pool.submit(_stream, node, begun) for _ in range(STREAMS)]
            begun.wait()
            node.signal(signal.SIGTERM)
            ends = [stream.result() for stream in streams]
        status = node.wait()
        receipts += [end for end in ends if end]
        whole += status == 0 and all(ends)
        say(f"drain {number + 1}: status {status}, {sum(map(bool, ends))} of {STREAMS} whole")
    return {"drains": count, "drained_whole": whole, "acked_lost": lost(folder, receipts)}


def _node(folder: Path) -> Daemon:
    model = endless_model(folder.with_name(f"endless-{folder.name}"))
    return Daemon(folder, models=[{"id": str(model), "name": "endless"}])


def _stream(node: Daemon, begun: Barrier) -> str:
    """The receipt of an answer that ended whole, empty if it did not.

    All meet at ``begun`` when their requests are accepted: when the headers are there.
    """
    body = chat("endless", TOKENS) | {"stream": True}
    url, last, done = f"{node.url}/v1/chat/completions", {}, False
    with httpx.stream("POST", url, headers=node.headers, json=body, timeout=60) as answer:
        begun.wait()
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                last = json.loads(line.removeprefix("data: "))
    finished = done and last["choices"][0]["finish_reason"] == "length"
    return receipt_id(last) if finished else ""


def worker_stopped(folder: Path) -> dict[str, Any]:
    """SIGSTOP to the worker under an answer: seconds until the next answer is there."""
    node = _node(folder).start().wait_for_model("endless")
    receipts = [receipt_id(ask(node, "endless").json())]
    (worker,) = children_of(node.running.pid)
    os.kill(worker, signal.SIGSTOP)
    begun = time.perf_counter()
    under = ask(node, "endless")  # the answer that it was needed for
    while not (answer := ask(node, "endless")).is_success:
        httpx.get(f"{node.url}/healthz", timeout=5).raise_for_status()
        time.sleep(0.05)
    restart_s = time.perf_counter() - begun
    receipts.append(receipt_id(answer.json()))
    node.end()
    return {
        "worker_stopped_restart_s": round(restart_s, 2),
        "worker_stopped_said": under.json().get("error", {}).get("code", "answered"),
        "acked_lost": lost(folder, receipts),
    }
