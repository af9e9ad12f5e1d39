"""The doctor, the last log lines, the data and its backup, over JSON-RPC."""

from __future__ import annotations

from pathlib import Path

import pytest

from r3mes.actors.store import Store, open_store
from r3mes.config.load import Loaded, load
from r3mes.node.doctor import engine
from r3mes.node.doctor.finding import Finding, Subject
from r3mes.node.logs.ring import Ring
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.methods.db import DbMethods
from r3mes.node.rpc.methods.diag import DiagMethods
from r3mes.p2p.identity import NodeKey
from tests.node.rpc.conftest import Caller


def loaded(datadir: Path) -> Loaded:
    flags = {"node.datadir": str(datadir), "api.listen": "127.0.0.1:0"}
    return load(file=datadir / "config.toml", env={}, flags=flags)


def data(store: Store) -> Caller:
    return Caller(Dispatcher(DbMethods(store, lambda: loaded(store.datadir))))


async def test_lines_of_the_log() -> None:
    ring = Ring()
    for number, level in enumerate(("info", "warning", "debug", "error", "info"), 1):
        ring.add(number, level, "r3mes.test", f"line {number}", "Traceback" if number == 4 else "")
    call = Caller(Dispatcher(DiagMethods(ring, lambda: Subject(loaded(Path()).config, Path()))))
    assert [line["number"] for line in await call("diag_logs", lines=2)] == [4, 5]
    assert [line["number"] for line in await call("diag_logs", level="warning")] == [2, 4]
    assert (await call("diag_logs", after=3))[0]["trace"] == "Traceback"
    assert await call("diag_logs", after=99) == []
    assert (await call("diag_logs", lines=0))["data"]["code"] == "invalid_request"


async def test_the_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(subject: Subject) -> list[Finding]:
        return []

    for part in ("engine", "models"):
        monkeypatch.setattr(engine, part, nothing)
    subject = Subject(loaded(tmp_path).config, tmp_path / "config.toml")
    found = await Caller(Dispatcher(DiagMethods(Ring(), lambda: subject)))("diag_doctor")
    assert {"name", "verdict", "what", "do"} == set(found[0])
    assert "Store" in {one["name"] for one in found}


async def test_the_data(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        call = data(store)
        status = await call("db_status")
        assert status["path"] == str(tmp_path / "r3mes.sqlite3")
        assert (status["problem"], status["last_backup_at"]) == (None, None)
        assert status["size_bytes"] > 0
        (tmp_path / "r3mes.sqlite3.replaced-20261125T120000Z").write_bytes(b"old" * 99)
        assert await call("db_status") == status  # what a restore puts aside is not the database
        assert await call("db_check") == {"whole": True, "why": None}


async def test_a_backup_of_a_running_node(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        call = data(store)
        assert (await call("backup_create"))["data"]["code"] == "config_invalid"  # no key, no node
        NodeKey.load_or_create(tmp_path / "keys" / "node.key")
        made = await call("backup_create")
        assert Path(made["file"]).parent == tmp_path / "backups"
        assert made["files"] == ["keys/node.key", "r3mes.sqlite3"]
        assert (await call("db_status"))["last_backup_at"] is not None


async def test_a_damaged_database_is_said_to_be_so(tmp_path: Path) -> None:
    async with open_store(tmp_path):
        pass
    path = tmp_path / "r3mes.sqlite3"
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * 4096 + content[8192:])
    checked = await data(Store(tmp_path))("db_check")
    assert checked["whole"] is False
    assert "damaged" in checked["why"]
