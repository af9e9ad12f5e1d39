"""The unit and its drop-ins as systemd's own tools see them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

SHIPPED = Path(__file__).resolve().parents[2] / "systemd"
DROP_INS = ("10-gpu.conf", "50-credential.conf")

with_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze (Debian: systemd)"
)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is there, as an installation has it."""
    unit = tmp_path / "r3mes.service"
    text = (SHIPPED / "r3mes.service").read_text()
    unit.write_text(text.replace("/usr/local/bin/r3mes", sys.executable))
    return unit


def drop_in(unit: Path, *names: str) -> None:
    folder = unit.with_name("r3mes.service.d")
    folder.mkdir()
    for name in names:
        shutil.copy(SHIPPED / "r3mes.service.d" / name, folder)


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words], check=False, capture_output=True, text=True
    )


@with_systemd
@pytest.mark.parametrize("names", [(), *((name,) for name in DROP_INS), DROP_INS])
def test_verify_finds_nothing(unit: Path, names: tuple[str, ...]) -> None:
    drop_in(unit, *names)
    verified = analyze("verify", str(unit))
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


@with_systemd
def test_verify_would_find_a_wrong_line(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHome=perhaps"))
    assert "protect home" in analyze("verify", str(unit)).stderr


@with_systemd
@pytest.mark.parametrize("names", [(), DROP_INS])
def test_exposure_is_low(unit: Path, names: tuple[str, ...]) -> None:
    drop_in(unit, *names)
    said = analyze("security", "--offline=true", str(unit)).stdout
    score = re.search(r"Overall exposure level for r3mes\.service: ([\d.]+)", said)
    assert score is not None, said
    assert float(score[1]) <= 1.5


def test_every_setting_that_surprises_is_explained() -> None:
    """Above each of these stands a comment that says why it is as it is."""
    lines = (SHIPPED / "r3mes.service").read_text().splitlines()
    for setting in (
        "MemoryDenyWriteExecute=no",
        "ProcSubset=all",
        "RestartPreventExitStatus=78",
        "ProtectHome=yes",
        "KillMode=mixed",
        "WatchdogSec=60",
        "ConfigurationDirectoryMode=0755",
    ):
        at = lines.index(setting)
        above = [line for line in lines[max(0, at - 2) : at] if line.startswith("#")]
        assert above, setting


@pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None or os.geteuid() != 0,
    reason="no systemd-sysusers (Debian: systemd), or not root",
)
def test_the_user_and_its_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    at_root = f"--root={tmp_path}"
    for command in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
        kind = command[0].removeprefix("systemd-")
        rules = shutil.copy(SHIPPED / f"r3mes.{kind}", tmp_path / f"{kind}.conf")
        subprocess.run([*command, at_root, str(rules)], check=True, capture_output=True)
    account = (tmp_path / "etc/passwd").read_text()
    found = re.search(
        r"^r3mes:x:(\d+):\d+:R3MES node:/var/lib/r3mes:.*nologin$", account, re.MULTILINE
    )
    assert found is not None, account
    data = (tmp_path / "var/lib/r3mes").stat()
    assert (data.st_uid, stat.S_IMODE(data.st_mode)) == (int(found[1]), 0o700)
    assert stat.S_IMODE((tmp_path / "etc/credstore.encrypted").stat().st_mode) == 0o700
