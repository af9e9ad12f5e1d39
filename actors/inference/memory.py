"""How much memory there is, and how much a model's weights will take: known before it is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import inf, prod
from pathlib import Path

from r3mes.actors.inference.weights import read_headers

MEMINFO, CGROUPS, OWN_CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), "/proc/self/cgroup"
WIDTHS = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of a weight, where the configuration says the precision."""
FLOATS = ("F64", "F32", "F16", "BF16")
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd")


def needed_bytes(directory: Path, dtype: str) -> int:
    """What the weights occupy once they are loaded; the engine takes some more.

    Args:
        directory: with the model's files.
        dtype: as in the settings; ``auto`` leaves them as they are stored.

    Raises:
        ModelInvalid: a weights file is corrupt or cut off.
    """
    width = WIDTHS.get(dtype)
    return sum(
        prod(tensor.shape) * width if width and tensor.dtype in FLOATS else tensor.bytes
        for tensors in read_headers(directory).values()
        for tensor in tensors
    )


def free_bytes() -> float:
    """What a new process may take before something must go: of the machine or of our cgroup."""
    return min(_machine(), *_cgroups())


def total_bytes() -> float:
    """All memory of the machine."""
    return _told("MemTotal")


def _machine() -> float:
    return _told("MemAvailable")


def _told(name: str) -> float:
    fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    return float(fields[name].split()[0]) * 1024


def _cgroups() -> Iterator[float]:
    """What our cgroup and each above it leaves; the pages of files in it can be given back.

    Source: Linux ``Documentation/admin-guide/cgroup-v2``.
    """
    yield inf
    for folder in _own_cgroup():
        try:
            limit = (folder / "memory.max").read_text().strip()
            if limit != "max":
                used = float((folder / "memory.current").read_text())
                yield float(limit) - used + _file_pages(folder)
        except (OSError, ValueError):
            continue


def _own_cgroup() -> Iterator[Path]:
    try:
        line = next(one for one in Path(OWN_CGROUP).read_text().splitlines() if one[:3] == "0::")
    except (OSError, StopIteration):
        return
    path = CGROUPS / line[3:].lstrip("/")
    yield from (one for one in (path, *path.parents) if one.is_relative_to(CGROUPS))


def _file_pages(folder: Path) -> float:
    fields = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return next((float(value) for name, value in fields if name == "inactive_file"), 0.0)


def has_gpu() -> bool:
    """Whether a driver for one is there; what torch makes of it is known to the worker only."""
    return any(map(os.path.exists, GPU_DEVICES))
