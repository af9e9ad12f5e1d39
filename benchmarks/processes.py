"""Processes with all that they started: their memory, and silence while others are measured."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from benchmarks.daemons import children_of

GRACE_S = 10


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid, *(below for child in children_of(pid) for below in tree(child))]


def peak_mb(pid: int) -> float:
    """Most resident memory that one process has had so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def suspend(pid: int) -> None:
    """Take the processor from a tree, so that another one has it alone."""
    _tell(pid, signal.SIGSTOP)


def resume(pid: int) -> None:
    """Give it back."""
    _tell(pid, signal.SIGCONT)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a tree, however unwilling."""
    pids = tree(process.pid)
    resume(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    for pid in pids:
        if pid != process.pid or process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def _tell(pid: int, number: int) -> None:
    for each in tree(pid):
        with suppress(ProcessLookupError):
            os.kill(each, number)
