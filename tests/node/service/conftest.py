"""A tree like that of a machine, and stand-ins for what speaks to a systemd that runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from r3mes.chain.keys import keystore
from r3mes.node.service.places import Places

STAND_IN = """#!/bin/sh
echo "$(basename $0) $*" >> {calls}
case "$(basename $0) $1" in
  "systemctl show") cat {shown} ;;
  "systemd-creds encrypt") for last; do :; done; tr a-z A-Z > "$last" ;;
esac
"""
with_systemd = pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None or os.geteuid() != 0,
    reason="no systemd-sysusers (Debian: systemd), or not root",
)


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap = keystore.KdfCost(ops=1, memory=8 << 20)
    monkeypatch.setattr(keystore.create_keystore, "__kwdefaults__", {"cost": cheap})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Of a machine without a node."""
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    return tree


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was asked of systemctl and systemd-creds, a line each."""
    (folder := tmp_path / "bin").mkdir()
    calls, shown = tmp_path / "calls", tmp_path / "shown"
    for name in ("systemctl", "systemd-creds"):
        (folder / name).write_text(STAND_IN.format(calls=calls, shown=shown))
        (folder / name).chmod(0o755)
    shown.write_text("LoadState=loaded\nActiveState=active\nSubState=running\nMainPID=7\n")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return calls


@pytest.fixture
def live(tree: Path, calls: Path) -> Places:
    """The places of a service that systemd, a stand-in, is to start."""
    calls.touch()
    return Places(tree, live=True)
