"""The machine: Python, memory, disk, clock."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from r3mes.actors.inference.memory import free_bytes
from r3mes.node.cli.output import size
from r3mes.node.doctor.finding import Finding, Subject

GIB = 1 << 30
LITTLE_DISK, TOO_LITTLE_DISK = 2 * GIB, 64 << 20
LITTLE_MEMORY = GIB
BYTES_PER_WEIGHT = 2.4
"""In bf16, with what else a worker needs."""
RELEASED = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""No clock that is right shows an earlier time."""
SKEW_S = 60.0
STA_UNSYNC = 0x0040
"""In the kernel's clock status: nobody keeps it in time."""


def python(subject: Subject) -> Finding:
    """Whether Python can run the node."""
    cores = len(os.sched_getaffinity(0))
    what = f"{platform.python_version()} on {platform.machine()}, {cores} cores"
    if sys.version_info < (3, 11) or sys.platform != "linux":
        return Finding("Python", "fail", what, "use Python 3.11 or newer on Linux")
    return Finding("Python", "ok", what)


def memory(subject: Subject) -> Finding:
    """How much of it models can have."""
    free = free_bytes()
    billions = free / BYTES_PER_WEIGHT / 1e9
    model = f"models up to about {billions:.1f} billion parameters fit in bf16"
    if free < LITTLE_MEMORY:
        return Finding(
            "Memory", "warn", f"{size(free)} free", "end other programs, or serve small models only"
        )
    return Finding("Memory", "ok", f"{size(free)} free: {model}")


def disk(subject: Subject) -> Finding:
    """Whether there is room where the data is."""
    folder = existing(subject.datadir)
    free = shutil.disk_usage(folder).free
    what = f"{size(free)} free in {folder}"
    if free < TOO_LITTLE_DISK:
        return Finding("Disk", "fail", what, "free some space: the node stores every receipt")
    if free < LITTLE_DISK:
        return Finding("Disk", "warn", what, "free some space before it runs out")
    return Finding("Disk", "ok", what)


def clock(subject: Subject) -> Finding:
    """Whether others will believe our timestamps: 30 s apart, signed requests are refused."""
    now, do = time.time(), "set it right and let it be kept so: timedatectl set-ntp true"
    if now < RELEASED:
        return Finding("Clock", "fail", f"it shows {_date(now)}, which is long past", do)
    if (newest := max(_written(subject.datadir), default=0.0)) > now + SKEW_S:
        what = f"it was set back: files in {subject.datadir} are from {_date(newest)}"
        return Finding("Clock", "fail", what, do)
    match kernel_clock():
        case None:
            return Finding("Clock", "info", "the kernel does not tell whether it is kept in time")
        case False, _:
            what = "no time service has set it: it may be wrong by any amount"
            return Finding("Clock", "warn", what, do)
        case _, error_s:
            return Finding("Clock", "ok", f"kept in time, to {error_s * 1000:.0f} ms at worst")


def kernel_clock() -> tuple[bool, float] | None:
    """Whether a time service keeps the clock, and its largest error in seconds.

    None if the kernel does not say.  Source: adjtimex(2), which needs no right to look.
    """
    words = (ctypes.c_long * 64)()  # struct timex is 208 bytes; modes = 0 changes nothing
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(words) < 0:
        return None
    status = ctypes.c_int.from_buffer(words, 5 * ctypes.sizeof(ctypes.c_long)).value
    return not status & STA_UNSYNC, words[3] / 1_000_000


def existing(path: Path) -> Path:
    """``path``, or the nearest folder above it that is there."""
    return next(one for one in (path, *path.parents) if one.exists())


def _written(datadir: Path) -> Iterator[float]:
    for path in datadir.glob("*"):
        try:
            yield path.stat().st_mtime
        except OSError:  # gone meanwhile
            continue


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
