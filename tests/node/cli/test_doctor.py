"""Each check of the doctor finds what is wrong and says what to do; no machine is mocked."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from r3mes.config.load import load
from r3mes.config.schema import Config, Model
from r3mes.errors import ConfigError
from r3mes.node.backup.record import record_success
from r3mes.node.doctor import engine, machine, network, place
from r3mes.node.doctor.checks import CHECKS
from r3mes.node.doctor.engine import models
from r3mes.node.doctor.finding import Finding, Subject
from r3mes.node.paper import record_backup
from r3mes.node.running import Running

if TYPE_CHECKING:
    from tests.node.cli.conftest import Cli


@pytest.fixture
def node(cli: Cli) -> Cli:
    cli.datadir.mkdir(mode=0o700)
    (cli.datadir / "config.toml").write_text(
        '[api]\nlisten = "127.0.0.1:0"\n[p2p]\nlisten = ["127.0.0.1:0"]\n'
        '[metrics]\nlisten = "127.0.0.1:0"\n'
    )
    assert cli("init").code == 0
    return cli


@pytest.fixture
def subject(node: Cli) -> Subject:
    return about(node)


def about(node: Cli, **flags: object) -> Subject:
    file = node.datadir / "config.toml"
    whole = {
        "node.datadir": str(node.datadir),
        **{k.replace("_", "."): v for k, v in flags.items()},
    }
    return Subject(load(file=file, env={}, flags=whole).config, file)


def test_a_new_node_fails_nothing(subject: Subject) -> None:
    found = [check(subject) for check in CHECKS]
    assert [one for one in found if one.verdict == "fail"] == []
    assert all(one.do for one in found if one.verdict == "warn")
    assert {one.name for one in found if one.verdict == "warn"} >= {"Wallet", "Backup"}


def test_an_empty_directory_asks_for_init(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    subject = Subject(
        load(file=file, env={}, flags={"node.datadir": str(tmp_path / "no")}).config, file
    )
    for check in (
        place.configuration,
        place.data_directory,
        place.secrets,
        place.wallet,
        place.store,
    ):
        assert (check(subject).verdict, check(subject).do) == ("info", "run `r3mes init`")


def test_a_wrong_configuration_is_a_finding() -> None:
    subject = Subject(Config(), Path("c.toml"), ConfigError("file c.toml:2: nonsense"))
    assert place.configuration(subject) == Finding(
        "Configuration", "fail", "file c.toml:2: nonsense", ConfigError.kind.do
    )


def test_modes(subject: Subject) -> None:
    assert place.secrets(subject).verdict == "ok"
    wallet = subject.datadir / "wallets" / "default.json"
    wallet.chmod(0o640)
    assert place.secrets(subject).verdict == "fail"
    assert place.secrets(subject).do == f"run `chmod 600 {wallet}`"
    assert place.wallet(subject).verdict == "fail"
    subject.datadir.chmod(0o755)
    assert place.data_directory(subject).verdict == "warn"
    assert "chmod 700" in place.data_directory(subject).do


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_directory_of_somebody_else(subject: Subject) -> None:
    os.chown(subject.datadir, 12345, -1)
    found = place.data_directory(subject)
    assert (found.verdict, "user 12345" in found.what) == ("fail", True)


def test_a_wallet_on_paper(subject: Subject) -> None:
    assert place.wallet(subject).do == "run `r3mes wallet backup`"
    record_backup(subject.config, "default")
    assert place.wallet(subject).verdict == "ok"


def test_a_damaged_store(subject: Subject) -> None:
    assert place.store(subject).verdict == "ok"
    database = subject.datadir / "r3mes.sqlite3"
    whole = database.read_bytes()
    database.write_bytes(whole[:4096] + b"\xff" * 4096 + whole[8192:])
    found = place.store(subject)
    assert (found.verdict, "damaged" in found.what) == ("fail", True)
    database.write_bytes(b"this is no database, but it is long enough to be taken for one" * 99)
    assert place.store(subject).verdict == "fail"


def test_the_age_of_the_backup(subject: Subject) -> None:
    assert place.backup(subject).what == "there never was one"
    record_success(subject.datadir, Path("b.tar"))
    assert place.backup(subject).verdict == "ok"
    old = time.time() - 9 * place.DAY_S
    os.utime(subject.datadir / "backups" / "last-success", (old, old))
    assert place.backup(subject).what == "9 days old"


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_port_that_is_taken(node: Cli, taken: str) -> None:
    subject = about(node, api_listen=taken)
    found = network.ports(subject)
    assert found.verdict == "fail"
    assert re.fullmatch(
        rf"{taken}: address already in use, by \S+ \(pid {os.getpid()}\)", found.what
    )
    ours = Subject(subject.config, subject.file, running=Running(os.getpid(), "", "", taken, ()))
    assert network.ports(ours).verdict == "ok"


def test_a_clock_that_went_back(subject: Subject) -> None:
    assert machine.clock(subject).verdict != "fail"
    later = time.time() + 3600
    os.utime(subject.datadir / "r3mes.sqlite3", (later, later))
    found = machine.clock(subject)
    assert (found.verdict, "set back" in found.what) == ("fail", True)


def test_the_kernel_tells_of_its_clock() -> None:
    told = machine.kernel_clock()
    assert told is None or told[1] >= 0


def test_little_room(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "TOO_LITTLE_DISK", 1 << 60)
    assert machine.disk(subject).verdict == "fail"
    monkeypatch.setattr(machine, "LITTLE_MEMORY", 1 << 60)
    assert machine.memory(subject).verdict == "warn"


async def test_models_that_cannot_be_loaded(node: Cli, tmp_path: Path) -> None:
    config = about(node, models=[{"id": str(tmp_path / "none")}]).config
    (found,) = await models(Subject(config, node.datadir))
    assert (found.name, found.verdict) == ("Model none", "fail")
    assert found.do
    hub = Config(models=(Model(id="nobody/never-fetched"),))
    (found,) = await models(Subject(hub, node.datadir))
    assert (found.verdict, "pulled when the node starts" in found.what) == ("info", True)


def test_the_command_tells_its_findings(
    node: Cli, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(subject: Subject) -> list[Finding]:
        return [Finding("Engine", "ok", "left out here: the slow test has it")]

    for part in ("engine", "models"):
        monkeypatch.setattr(engine, part, nothing)
    fine = node("doctor")
    assert fine.code == 0, fine.out
    assert " ok    Store: r3mes.sqlite3 is whole" in fine.out
    assert fine.out.splitlines()[-1].endswith("next: r3mes wallet backup")
    monkeypatch.setenv("R3MES_API__LISTEN", taken)
    found = json.loads(node("doctor", "--json").out)
    assert [one["name"] for one in found if one["verdict"] == "fail"] == ["Ports"]
    assert node("doctor", "--json").code == 1


def test_the_command_survives_a_wrong_configuration(
    node: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(subject: Subject) -> list[Finding]:
        return []

    for part in ("engine", "models"):
        monkeypatch.setattr(engine, part, nothing)
    (node.datadir / "config.toml").write_text("[api]\nlistn = 1\n")
    ran = node("doctor")
    assert ran.code == 1
    assert "fail  Configuration: file" in ran.out
    assert "did you mean listen" in ran.out
    assert ran.out.endswith("next: correct it, then run `r3mes config check`\n")
