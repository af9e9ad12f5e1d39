"""The C++ compiler of this machine, if it has one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from r3mes.actors.inference.native.place import KERNELS

NAMES = ("c++", "g++", "clang++")
PATIENCE_S = 600.0


class CannotBuildError(Exception):
    """Why nothing was built, as a part of a sentence."""


def find_compiler() -> str:
    """Its path.

    Raises:
        CannotBuildError: there is none.
    """
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise CannotBuildError("there is no C++ compiler")
    return found


def build_kernels(target: Path) -> None:
    """Compile our operators into a library that torch loads.

    Raises:
        CannotBuildError: there is no compiler, or it fails.
    """
    import torch

    home = Path(torch.__file__).parent
    command = [
        find_compiler(), "-std=c++20", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared",
        "-ffp-contract=off",  # sums are rounded as the source says, whatever the compiler
        f"-I{home}/include", str(KERNELS), "-o", str(target),
        f"-L{home}/lib", "-lc10", "-ltorch_cpu",
    ]  # fmt: skip
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)  # noqa: S603
    except (subprocess.SubprocessError, OSError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace")
        first = next((line for line in said.splitlines() if "error" in line), str(error))
        raise CannotBuildError(f"the C++ compiler failed: {first[:200]}") from None
