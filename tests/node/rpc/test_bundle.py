"""A support bundle: whole, bounded, and without secrets."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from r3mes.actors.kernel.canary import Canary
from r3mes.actors.kernel.supervisor import Supervisor
from r3mes.config.load import load
from r3mes.errors import AskTimeout
from r3mes.node.bundle import FOLDER, KEPT
from r3mes.node.logs import Ring
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.methods.diag_bundle import DiagBundle
from r3mes.node.tasks import running_tasks
from tests.node.rpc.conftest import Caller

SECRET = f"r3k_0123ABCD_{'x' * 43}_abcdef"


class Node:
    def __init__(self, datadir: Path) -> None:
        self.ring, self.well = Ring(), True
        loaded = load(file=None, env={}, flags={"node.datadir": str(datadir)})
        bundles = DiagBundle(
            status=self.status,
            tasks=lambda: running_tasks(Supervisor("root", []), Canary()),
            ring=self.ring,
            loaded=lambda: loaded,
        )
        self.call = Caller(Dispatcher(bundles))

    async def status(self) -> Mapping[str, object]:
        if not self.well:
            raise AskTimeout("the router does not answer")
        return {"ready": True, "odd": f"key {SECRET}"}


def read(path: str) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_bundle_has_what_it_says_and_no_secret(node: Node, tmp_path: Path) -> None:
    node.ring.add(1, "error", "r3mes.test", "it broke", f"Traceback: passphrase=hunter2 {SECRET}")
    told = await node.call("diag_bundle")
    parts = read(told["path"])
    assert sorted(parts) == sorted(told["files"])
    assert json.loads(parts["status.json"])["ready"] is True
    assert json.loads(parts["config.json"])["log.level"] == {"value": "info", "origin": "default"}
    assert "pydantic" in json.loads(parts["versions.json"])["libraries"]
    assert json.loads(parts["tasks.json"])["tasks"] == []
    assert "1970-01-01T00:00:00.001+00:00 error r3mes.test: it broke" in parts["log.txt"]
    assert "hunter2" not in str(parts)
    assert "x" * 43 not in str(parts)
    path = Path(told["path"])
    assert path.parent == tmp_path / FOLDER
    assert mode(path) == 0o600


async def test_bundle_of_a_node_in_trouble_says_so(node: Node) -> None:
    node.well = False
    told = await node.call("diag_bundle", include=["status"])
    assert told["files"] == ["status.json"]
    assert "does not answer" in read(told["path"])["status.json"]


async def test_old_bundles_make_room(node: Node, tmp_path: Path) -> None:
    made: list[Any] = [
        (await node.call("diag_bundle", include=["tasks"]))["path"] for _ in range(KEPT + 2)
    ]
    assert sorted(str(path) for path in (tmp_path / FOLDER).iterdir()) == sorted(made[2:])


async def test_folder_that_cannot_be_written_is_told(node: Node, tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")
    assert (await node.call("diag_bundle", include=["tasks"]))["code"] == -32050


@pytest.mark.parametrize("include", [[], ["secrets"], "logs"])
async def test_parts_are_those_that_there_are(node: Node, include: object) -> None:
    assert (await node.call("diag_bundle", include=include))["code"] == -32602
