"""The process that builds for one model what this machine lacks; ``python -m …native.builder``.

A process of its own, with as little as the worker may do: compilers run on what a model's files
say.  It goes last on the machine, and answers are written as before until it is done.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from r3mes.actors.inference.native.compiler import CannotBuildError, build_kernels, find_compiler
from r3mes.actors.inference.native.place import LOCK, is_there, place_of, put, refuse, tidy
from r3mes.actors.inference.pipes import commands, reports, say
from r3mes.actors.inference.protocol import Build, Built
from r3mes.actors.inference.sandbox import confine

NICEST = 19


def main() -> None:
    """Obey one `Build`."""
    out = reports()
    build = next(commands())
    if not isinstance(build, Build):
        raise TypeError("the command must be Build")
    programs = Path(build.programs)
    programs.mkdir(mode=0o700, parents=True, exist_ok=True)
    confine(Path(build.model), writable=(programs,))
    os.nice(NICEST)
    with (programs / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tidy(programs)
        why = build_for(Path(build.model), programs, scaled=build.scaled)
    say(out, Built(why))


def build_for(model: Path, programs: Path, *, scaled: bool) -> str:
    """Why not everything could be built; empty if it was."""
    place = place_of(programs, model, scaled=scaled)
    try:
        find_compiler()
        if not is_there(place.kernels):
            put(place.kernels, build_kernels)
        if not is_there(place.program):
            put(place.program, lambda target: _compile(model, place.kernels, target, scaled=scaled))
    except CannotBuildError as error:
        return str(error)
    except (OSError, MemoryError) as error:  # of this hour, and not of the model
        return f"it could not be built now: {error}"
    except Exception as error:  # noqa: BLE001  whatever export and compilers make of a model
        first = (str(error).strip().splitlines() or [""])[0][:200]
        why = f"the model could not be compiled: {type(error).__name__}: {first}"
        refuse(place, why)
        return why
    return ""


def _compile(model: Path, kernels: Path, target: Path, *, scaled: bool) -> None:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()
    import torch
    from torch._inductor import config as inductor

    from r3mes.actors.inference.native.operators import load
    from r3mes.actors.inference.native.program import compile_program

    torch.set_num_threads(1)
    inductor.compile_threads = 1
    inductor.cpp.cxx = (find_compiler(),)  # type: ignore[assignment]
    load(kernels)
    compile_program(model, target, scaled=scaled)


if __name__ == "__main__":
    main()
