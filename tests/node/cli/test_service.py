"""`r3mes service` as it is typed; what its steps do is tested beside them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from r3mes.config import paths
from r3mes.config.secrets import write_secret
from r3mes.node.cli import api
from r3mes.node.cli.session import Session
from r3mes.node.service.reach import Program
from tests.node.service.conftest import with_systemd

if TYPE_CHECKING:
    from tests.node.cli.conftest import Cli

STATUS_KEYS = {"installed", "active", "detail", "enabled", "says", "pid", "restarts", "exit_status"}
SHOWN = """LoadState=loaded
ActiveState=activating
SubState=auto-restart
UnitFileState=enabled
StatusText=serving 1 model
MainPID=0
NRestarts=3
ExecMainStatus=70"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of another machine; the program is where a service reaches it."""
    program = Program(Path("/usr/local/bin/r3mes"), ())
    monkeypatch.setattr(Program, "running", lambda: program)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "tree/etc").mkdir(parents=True)
    return tmp_path / "tree"


def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A stand-in for it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin/systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)


@with_systemd
def test_install_and_uninstall_say_what_they_did(cli: Cli, tree: Path) -> None:
    first = cli("service", "install", "--root", str(tree))
    assert first.code == 0, first.err
    assert f"Wrote    {tree}/etc/systemd/system/r3mes.service\n" in first.out
    assert f"Made     the node in {tree}/var/lib/r3mes\n" in first.out
    assert "Removed" not in first.out
    last = cli("service", "uninstall", "--root", str(tree))
    assert last.code == 0, last.err
    assert f"Removed  {tree}/etc/systemd/system/r3mes.service\n" in last.out
    assert last.out.endswith(
        f"Left     {tree}/var/lib/r3mes\nLeft     {tree}/etc/r3mes/config.toml\n"
    )
    again = cli("service", "uninstall", "--root", str(tree))
    assert (again.code, again.out.count("Left"), again.out.count("\n")) == (0, 2, 2)


def test_a_dry_run_changes_nothing(cli: Cli, tree: Path) -> None:
    said = cli("service", "install", "--dry-run", "--root", str(tree))
    assert said.code == 0, said.err
    assert "write " in said.out
    assert "ExecStart=/usr/local/bin/r3mes run" in said.out
    assert "remove" not in said.out
    assert [one.name for one in tree.rglob("*")] == ["etc"]


def test_only_root_may(cli: Cli, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for words in (("install",), ("install", "--dry-run"), ("uninstall",)):
        refused = cli("service", *words, "--root", str(tree))
        assert refused.code == 77
        assert f"service {' '.join(words)} --root {tree}`." in refused.err
        assert "Run `sudo /" in refused.err


def test_what_it_would_not_reach_is_listed(
    cli: Cli, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program(Path("/home/al/.local/bin/r3mes"), ())
    monkeypatch.setattr(Program, "running", lambda: program)
    refused = cli("service", "install", "--dry-run", "--root", str(tree))
    assert refused.code == 78
    listed, advice, error = refused.err.splitlines()
    assert listed.startswith("the program, /home/al/.local/bin/r3mes: ")
    assert advice.startswith("  -> sudo env UV_TOOL_DIR=/opt/r3mes ")
    assert error.startswith("error R3-SERVICE-003: ")
    assert refused.out == ""


def test_status_for_programs(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemctl(tmp_path, monkeypatch, f"cat <<'E'\n{SHOWN}\nE")
    write_secret(cli.datadir / "api-key", "rk_1")
    (config := cli.datadir / "config.toml").write_text("api.listen = '127.0.0.1:1'\n")
    said = cli("--config", str(config), "service", "status", "--json")
    assert said.code == 69
    found = json.loads(said.out)
    assert found.keys() == {"unit", "node", "error"}
    assert (found["node"], found["error"]) == (None, "node_not_running")
    assert found["unit"].keys() == STATUS_KEYS
    assert (found["unit"]["restarts"], found["unit"]["exit_status"]) == (3, 70)


def test_status_for_people(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemctl(tmp_path, monkeypatch, f"cat <<'E'\n{SHOWN}\nE")
    said = cli("--config", str(cli.datadir / "none.toml"), "service", "status")
    line = "Service  activating (auto-restart) · enabled · last exit 70 · 3 restarts"
    assert said.out == f"{line}   serving 1 model\n"


def test_status_of_no_service(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemctl(tmp_path, monkeypatch, "echo LoadState=not-found; echo ActiveState=inactive")
    said = cli("--config", str(cli.datadir / "none.toml"), "service", "status")
    assert (said.code, said.out) == (69, "Service  not installed\n")
    assert "the service is not installed. Run `sudo r3mes service install`." in said.err


def test_no_systemd_runs(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemctl(tmp_path, monkeypatch, "echo System has not been booted with systemd. >&2; exit 1")
    said = cli("service", "status")
    assert (said.code, said.out) == (69, "")
    assert "error R3-SERVICE-002: " in said.err
    assert "has not been booted" in said.err


@pytest.mark.parametrize("words", [("status",), ("chat", "--model", "builtin", "hi"), ("peers",)])
def test_the_socket_of_a_service_that_is_closed_to_this_user(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Root may look anywhere, so that what the kernel tells another user is said for it."""
    write_secret(cli.datadir / "api-key", "rk_1")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != cli.datadir and real(path, mode))
    refused = cli(*words)
    if words[0] == "chat":  # by the socket, which is not there
        assert (refused.code, refused.err[:18]) == (69, "error R3-NODE-003:")
    else:
        assert refused.code == 77
        assert f"cannot open {cli.datadir}/admin.sock. Run it as the user of the" in refused.err


def test_a_service_is_started_by_systemd(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "SYSTEM_DATA", cli.datadir)
    write_secret(cli.datadir / "api-key", "rk_1")
    (cli.datadir / "config.toml").write_text("api.listen = '127.0.0.1:1'\n")
    assert "Start it with `sudo systemctl start r3mes`." in cli("status").err


def test_a_person_runs_a_node_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine has a service, `init` and `run` keep away from its data."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(paths, "SYSTEM_CONFIG", tmp_path / "service.toml")
    paths.SYSTEM_CONFIG.write_text(f"node.datadir = '{tmp_path}/services'\n")
    anywhere = Session(None, None)
    assert anywhere.load().config.node.datadir == tmp_path / "services"
    assert replace(anywhere, own=True).file == tmp_path / "home/r3mes/config.toml"
