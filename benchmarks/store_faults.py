"""A disk that is full, and a stranger who holds the database's write lock.

Run as a program it is the part inside of a mount namespace of its own, where the data directory is
a tmpfs of 6 MB: ``python -m benchmarks.store_faults FOLDER``.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from benchmarks.acked import ask, lost, receipt_id
from benchmarks.daemons import PATIENCE_S, Daemon
from r3mes.actors.store import DATABASE

SIZE = "6m"
POLL_S = 0.02


def disk_full(folder: Path) -> dict[str, Any]:
    """Seconds until the node says so, and until it is well again when there is space."""
    folder.mkdir(parents=True)
    inside = f'mount -t tmpfs -o size={SIZE} none "$1" && exec "$0" -m benchmarks.store_faults "$1"'
    command = ["unshare", "-rm", "sh", "-c", inside, sys.executable, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=4 * PATIENCE_S)
    if done.returncode:
        why = "no tmpfs could be mounted in a namespace of our own"
        keys = ("disk_full_not_ready_s", "disk_full_recovered_s")
        return dict.fromkeys(keys) | {"not_measured": dict.fromkeys(keys, why), "acked_lost": 0}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _inside(disk: Path) -> dict[str, Any]:
    log = disk.with_name(f"{disk.name}.log")  # beside it: what was printed outlives the disk
    node = Daemon(disk / "node", models=[{"id": "builtin"}], log=log).start()
    node.wait_for_model("builtin")
    receipts = [receipt_id(ask(node).json()) for _ in range(5)]
    filler = disk / "filler"
    _fill(filler)
    while (answer := ask(node)).is_success:  # SQLite may have room of its own left
        receipts.append(receipt_id(answer.json()))
        _fill(filler)
    said = answer.json()["error"]["code"]
    not_ready_s = _until(node, ready=False)
    filler.unlink()
    recovered_s = _until(node, ready=True)
    receipts.append(receipt_id(ask(node).raise_for_status().json()))
    node.end()
    return {
        "disk_full_not_ready_s": round(not_ready_s, 3),
        "disk_full_recovered_s": round(recovered_s, 3),
        "disk_full_said": said,
        "acked_lost": lost(node.folder, receipts),
    }


def _fill(filler: Path) -> None:
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            while _written(file.fileno(), size):
                pass


def _written(handle: int, size: int) -> bool:
    try:
        return os.write(handle, b"\0" * size) > 0
    except OSError:
        return False


def _until(node: Daemon, *, ready: bool) -> float:
    begun = time.perf_counter()
    while node.get("/readyz").is_success is not ready:
        if time.perf_counter() - begun > PATIENCE_S:
            raise TimeoutError(f"the node did not become {'' if ready else 'not '}ready")
        time.sleep(POLL_S)
    return time.perf_counter() - begun


IDLE_S = 6.0
"""Long enough for what a node does once, some seconds after its start."""


def foreign_lock(folder: Path, *, hold_s: float) -> dict[str, Any]:
    """How long the event loop stood still, callers waited, and the node needed afterwards."""
    node = Daemon(folder, models=[{"id": "builtin"}]).start().wait_for_model("builtin")
    receipts = [receipt_id(ask(node).json()) for _ in range(5)]
    idle = Prober(node)
    time.sleep(IDLE_S)
    idle_ms = idle.stop()
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        prober = Prober(node)
        refused, codes, until = [], set(), time.perf_counter() + hold_s
        while time.perf_counter() < until:
            begun = time.perf_counter()
            answer = ask(node)
            refused.append(time.perf_counter() - begun)
            codes.add(answer.json().get("error", {}).get("code", "answered"))
        locked_ms = prober.stop()
        foreign.execute("ROLLBACK")
    begun = time.perf_counter()
    while not (answer := ask(node)).is_success:
        pass
    recovered_ms = (time.perf_counter() - begun) * 1000
    receipts.append(receipt_id(answer.json()))
    usual_ms = statistics.median(_timed_ask_ms(node) for _ in range(5))
    node.end()
    return {
        "lock_stall_ms": round(max(0.0, max(locked_ms) - max(idle_ms)), 1),
        "lock_probe_max_ms": round(max(locked_ms), 1),
        "idle_probe_max_ms": round(max(idle_ms), 1),
        "lock_refused_max_s": round(max(refused), 3),
        "lock_said": sorted(codes),
        "lock_recovered_ms": round(max(0.0, recovered_ms - usual_ms), 1),
        "acked_lost": lost(folder, receipts),
    }


def _timed_ask_ms(node: Daemon) -> float:
    begun = time.perf_counter()
    ask(node).raise_for_status()
    return (time.perf_counter() - begun) * 1000


class Prober:
    """Asks ``/healthz``, which only needs the event loop, again and again from another thread."""

    def __init__(self, node: Daemon) -> None:
        self._url, self._done = f"{node.url}/healthz", threading.Event()
        self._took_ms: list[float] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with httpx.Client(timeout=60) as client:
            client.get(self._url)  # the connection is not what is measured
            while not self._done.wait(0.01):
                begun = time.perf_counter()
                client.get(self._url)
                self._took_ms.append((time.perf_counter() - begun) * 1000)

    def stop(self) -> list[float]:
        """End; what each question took, in milliseconds."""
        self._done.set()
        self._thread.join()
        return self._took_ms


if __name__ == "__main__":
    print(json.dumps(_inside(Path(sys.argv[1]))))
