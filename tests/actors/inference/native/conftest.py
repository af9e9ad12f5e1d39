"""Our operators, compiled once for all processes of a test run."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from r3mes.actors.inference.native.compiler import CannotBuildError, build_kernels, find_compiler
from r3mes.actors.inference.native.place import is_there, lacking, place_of, put


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the operators; skips where they cannot be made."""
    try:
        find_compiler()
    except CannotBuildError as error:
        pytest.skip(str(error))
    if lack := lacking():
        pytest.skip(lack)
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if folder.name.startswith("popen-") else folder  # pytest-xdist's
    (shared / "model").mkdir(exist_ok=True)
    (shared / "model" / "config.json").touch()
    with (shared / "kernels.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kernels = place_of(shared / "programs", shared / "model").kernels
        if not is_there(kernels):
            put(kernels, build_kernels)
    return shared / "programs"


@pytest.fixture(scope="session")
def operators(programs: Path) -> None:
    """The operators, known to torch in this process."""
    from r3mes.actors.inference.native.operators import load

    load(next(programs.glob("kernels-*.so")))
