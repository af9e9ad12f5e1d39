"""The wheel holds what the editable install shows, and nothing beside `r3mes`."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("node", "actors", "p2p", "chain", "config", "systemd")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    return next(out.glob("*.whl"))


def shipped() -> set[str]:
    """Every tracked file of the package folders, by its place in the wheel."""
    listed = subprocess.run(
        ["git", "ls-files", *FOLDERS], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return {f"r3mes/{name}" for name in listed.stdout.splitlines()}


@pytest.mark.slow
def test_the_wheel_holds_every_tracked_file_under_one_name(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"r3mes"}
    assert shipped() <= names
    assert {"r3mes/__init__.py", "r3mes/errors.py", "r3mes/ids.py", "r3mes/py.typed"} <= names


@pytest.mark.slow
def test_the_installed_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import r3mes, r3mes.node.__main__ as m; print(r3mes.__file__, flush=True); m.main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, "--version"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    where, version = ran.stdout.splitlines()
    assert where.startswith(str(tmp_path))
    assert "0.1.0" in version


def test_the_editable_install_is_this_tree() -> None:
    import r3mes.actors.kernel

    assert Path(r3mes.actors.kernel.__file__).resolve().is_relative_to(ROOT / "actors")
