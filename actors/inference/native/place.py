"""Where what was built for this machine lies, under names that say all it depends on.

A file counts only beside its digest, which is written last: one that is damaged, or that somebody
was stopped from finishing, is not there.
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
KERNELS = HERE / "kernels.cpp"
MAKERS = (HERE / "operators.py", HERE / "program.py", HERE.parent / "forward.py")
"""What else decides what a program computes."""
LOCK = "lock"
"""Held by the builder; one of a user at a time."""
KEPT_S = 90 * 86_400
"""After that, what is still needed is built again; models and versions come and go."""
NEEDED = "avx512_bf16"
"""What a processor must have, as Linux names it."""


@dataclass(frozen=True, slots=True)
class Place:
    """What there may be for one model.

    Args:
        kernels: the library with our operators.
        program: the model compiled around them.
    """

    kernels: Path
    program: Path


def place_of(programs: Path, model: Path, *, scaled: bool = False) -> Place:
    """The names under ``programs`` for the model in a directory; ``scaled`` as bytes."""
    kernels = _digest(KERNELS.read_bytes(), version("torch").encode(), _processor().encode())
    program = _digest(
        kernels.encode(),
        b"bytes" if scaled else b"",
        version("transformers").encode(),
        (model / "config.json").read_bytes(),
        *(maker.read_bytes() for maker in MAKERS),
    )
    return Place(programs / f"kernels-{kernels}.so", programs / f"program-{program}.pt2")


def lacking() -> str:
    """What the processor lacks; empty if nothing."""
    flags = _processor().split()
    return "" if NEEDED in flags else f"the processor has no {NEEDED.upper().replace('_', '-')}"


def is_there(path: Path) -> bool:
    """Whether a file is there and undamaged."""
    try:
        return _beside(path).read_text() == _sum(path)
    except OSError:
        return False


def why_not(place: Place) -> str:
    """Why this model cannot be compiled, if that was tried; empty if it may be tried."""
    try:
        return _refusal(place).read_text()
    except OSError:
        return ""


def refuse(place: Place, why: str) -> None:
    """Remember that it cannot, so that it is not tried at each start."""
    _refusal(place).write_text(why)


def _refusal(place: Place) -> Path:
    return place.program.with_suffix(".why")


def tidy(programs: Path) -> None:
    """Remove what a builder left that was stopped, and what nobody has built for long."""
    for path in programs.iterdir():
        left = path.name[0].isdigit()
        if left or (path.name != LOCK and time.time() - path.stat().st_mtime > KEPT_S):
            path.unlink(missing_ok=True)


def put(path: Path, make: Callable[[Path], None]) -> None:
    """Have a file made under another name, then put it and its digest in place."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f"{os.getpid()}-{path.name}")
    try:
        make(unfinished)
        _beside(path).unlink(missing_ok=True)
        unfinished.replace(path)
        _beside(path).write_text(_sum(path))
    finally:
        unfinished.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(*parts: bytes) -> str:
    whole = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hashlib.blake2b(whole, digest_size=12).hexdigest()


def _processor() -> str:
    """Its instruction sets, as the compiler will use all of them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {flags.partition(':')[2]}"
