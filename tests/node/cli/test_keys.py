"""keys: made, listed, rotated, revoked; on the store, and through a node that runs."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import trio

from r3mes.actors.keyring import Keyring
from r3mes.actors.ledger import Ledger
from r3mes.actors.store import open_store
from r3mes.errors import Unauthenticated
from r3mes.node.http.app import build_admin_app
from r3mes.node.http.server import HttpServer
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.methods.key import KeyMethods
from r3mes.node.running import Running, write_running

if TYPE_CHECKING:
    from tests.node.cli.conftest import Cli, Ran
    from tests.node.conftest import Api

Ask: TypeAlias = "Callable[..., Awaitable[Ran]]"
SECRET = re.compile(r"r3k_\w{8}_\w{43}_\w{6}")


@pytest.fixture
def node(cli: Cli) -> Cli:
    assert cli("init").code == 0
    return cli


def made(node: Cli, *words: str) -> dict[str, Any]:
    ran = node("keys", "create", *words, "--json")
    assert ran.code == 0, ran.err
    told: dict[str, Any] = json.loads(ran.out)
    return told


def listed(node: Cli) -> dict[str, dict[str, Any]]:
    return {key["id"]: key for key in json.loads(node("keys", "list", "--json").out)}


def opens(node: Cli, secret: str) -> bool:
    async def check() -> bool:
        async with open_store(node.datadir) as store:
            try:
                await Keyring(store, now_ms=lambda: 10**12).check(secret)
            except Unauthenticated:
                return False
            return True

    return trio.run(check)


def test_the_secret_is_shown_once_and_alone_on_stdout(node: Cli) -> None:
    ran = node("keys", "create", "editor", "--scopes", "r", "--model", "tiny", "--rpm", "60")
    assert ran.code == 0, ran.err
    assert SECRET.fullmatch(ran.out.strip())
    assert not SECRET.search(ran.err)
    assert opens(node, ran.out.strip())
    table = node("keys", "list").out
    assert not SECRET.search(table)
    assert [line.split()[1] for line in table.splitlines()] == ["NAME", "default", "editor"]
    key = listed(node)[ran.out[4:12]]
    assert (key["scopes"], key["models"], key["rpm"], key["state"]) == ("r", ["tiny"], 60, "active")


def test_a_secret_can_go_into_a_file_alone(node: Cli, tmp_path: Path) -> None:
    out = tmp_path / "key"
    ran = node("keys", "create", "editor", "--out", str(out))
    assert ran.code == 0, ran.err
    assert not SECRET.search(ran.out + ran.err)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert opens(node, out.read_text().strip())
    again = node("keys", "create", "editor", "--out", str(out))
    assert (again.code, len(listed(node))) == (73, 2)
    assert "exists; nothing was made" in again.err


def test_the_key_of_the_command_line_is_rotated_in_its_place(node: Cli) -> None:
    file = node.datadir / "api-key"
    old = file.read_text().strip()
    assert opens(node, old)
    ran = node("keys", "rotate", old[4:12], "--grace", "1h", "--out", str(file))
    assert ran.code == 0, ran.err
    new = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not (node.datadir / "api-key.new").exists()
    assert [opens(node, old), opens(node, new)] == [True, True]
    assert re.search(r"used .* ago, ends in 59m\d+s", node("keys", "list").out)
    assert node("keys", "rotate", old[4:12], "--finish").code == 0
    assert listed(node)[old[4:12]]["secrets"][0]["expires_ms"] is not None
    other = made(node, "other")["id"]
    wrong = node("keys", "rotate", other, "--out", str(file))
    assert wrong.code == 2
    assert f"no secret of the key {other}" in wrong.err
    assert file.read_text().strip() == new


def test_a_key_that_was_revoked_or_never_was(node: Cli) -> None:
    key = made(node, "x")
    assert node("keys", "revoke", key["id"]).code == 0
    assert not opens(node, key["secret"])
    assert listed(node)[key["id"]]["state"] == "revoked"
    for words in (("revoke", "nobody"), ("rotate", "nobody"), ("usage", "nobody")):
        assert node("keys", *words).code == 66, words


def test_times(node: Cli) -> None:
    day_ms = 86_400_000
    soon, later = made(node, "x", "--expires", "90d"), made(node, "y", "--expires", "2199-01-31")
    keys = listed(node)
    lasts = keys[soon["id"]]["expires_ms"] - keys[soon["id"]]["created_ms"]
    assert abs(lasts - 90 * day_ms) < day_ms
    assert keys[later["id"]]["expires_ms"] > keys[soon["id"]]["expires_ms"]
    for wrong in ("soon", "90", "2001-01-01", "99999-01-01", "-1d"):
        assert node("keys", "create", "z", f"--expires={wrong}").code == 2, wrong
    assert node("keys", "rotate", soon["id"], "--grace", "1y").code == 2


def test_usage(node: Cli) -> None:
    key = made(node, "x")["id"]
    assert node("keys", "usage", key).out.startswith("0 answers, 0 tokens")
    assert json.loads(node("keys", "usage", key, "--json").out)["cost_uremes"] == 0


def test_before_init(cli: Cli) -> None:
    ran = cli("keys", "list")
    assert ran.code == 78
    assert "run `r3mes init`" in ran.err.lower()


def test_a_node_that_holds_the_store_but_cannot_be_found_is_named(node: Cli) -> None:
    async def while_open() -> Ran:
        async with open_store(node.datadir):
            return await trio.to_thread.run_sync(node, "keys", "list")

    ran = trio.run(while_open)
    assert ran.code == 75
    assert f"pid {os.getpid()}" in ran.err


@pytest.fixture
async def running(node: Cli, api: Api, nursery: trio.Nursery) -> AsyncIterator[Ask]:
    """A node with the admin socket on this store, which it holds."""
    async with open_store(node.datadir) as store:
        keyring = Keyring(store, now_ms=lambda: 10**12)
        rpc = Dispatcher(KeyMethods(keyring, Ledger(store, now_ms=lambda: 10**12)))
        app = build_admin_app(gateway=api.gateway, state=api.state, rpc=rpc)
        socket = node.datadir / "admin.sock"
        await nursery.start(HttpServer(app, listen=f"unix:{socket}", drain_seconds=5).run)
        here = Running(os.getpid(), "peer", "wallet", api.address, (), str(socket))
        write_running(node.datadir, here)

        async def ask(*words: str) -> Ran:
            return await trio.to_thread.run_sync(partial(node, "keys", *words))

        yield ask


@pytest.mark.net
async def test_a_node_that_runs_does_it_itself(running: Ask, node: Cli) -> None:
    ran = await running("create", "editor", "--json")
    assert ran.code == 0, ran.err
    key = json.loads(ran.out)["id"]
    assert key in (await running("list")).out
    assert (await running("rotate", key)).code == 0
    assert (await running("revoke", key)).code == 0
    assert (await running("revoke", "nobody")).code == 66
    (node.datadir / "api-key").unlink()
    assert (await trio.to_thread.run_sync(node, "init")).code == 0  # makes the key anew
    assert SECRET.fullmatch((node.datadir / "api-key").read_text().strip())
