"""status, health, models, chat: against a server that runs, or does not."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
import trio
import trio.testing

from r3mes.config.load import load
from r3mes.config.secrets import write_secret
from r3mes.errors import BadRequest, ConfigError, MethodNotFound, NoPeer
from r3mes.node.cli import chat
from r3mes.node.cli.api import call
from r3mes.node.cli.session import Session
from r3mes.node.http.app import build_admin_app
from r3mes.node.http.server import HttpServer
from r3mes.node.running import Running, remove_running, write_running
from tests.node.cli.conftest import Ran
from tests.node.conftest import STATUS

if TYPE_CHECKING:
    from r3mes.node.http.ports import ModelEntry
    from tests.node.cli.conftest import Cli
    from tests.node.conftest import Api

Ask: TypeAlias = "Callable[..., Awaitable[Ran]]"
pytestmark = pytest.mark.net


@pytest.fixture
def ask(cli: Cli, api: Api) -> Ask:
    """Runs a command in a thread, with the address and the key of the server that runs."""
    cli.datadir.mkdir()
    (cli.datadir / "config.toml").write_text(f'[api]\nlisten = "{api.address}"\n')
    write_secret(cli.datadir / "api-key", "r3k_both")
    write_running(cli.datadir, Running(os.getpid(), "12D3KooWtest", "remes1own", api.address, ()))

    async def ask(*words: str, stdin: str = "") -> Ran:
        return await trio.to_thread.run_sync(partial(cli, *words, stdin=stdin))

    return ask


async def test_no_peers(ask: Ask, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STATUS, "peers", [])
    assert "Name some as p2p.bootstrap" in (await ask("peers")).out
    other = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
    monkeypatch.setenv("R3MES_P2P__BOOTSTRAP", other)
    out = (await ask("peers")).out
    assert other in out
    assert "Name some" not in out


async def test_status(ask: Ask, api: Api) -> None:
    ran = await ask("status")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "Node     12D3KooWtest · up 1h1m · ready · 0.1.0"
    assert "Models   org/tiny  torch  cpu  3 MiB  ctx 512  ready, idle 12s" in lines
    last = "last 60 s: 2 ok 0 failed 1 refused, ttft p50 0.21 s"
    assert "Load     1 running · 2 queued · 4 slots" in lines
    assert f"Lately   {last}" in lines
    assert "Peers    1   routed in 3 · out 1" in lines
    assert "Earned   0.000126 REMES today · spent 0.000000 REMES" in lines
    assert lines[-2:] == [
        "Wallet   remes1own",
        "Next     r3mes wallet backup   (nobody has the words of the wallet)",
    ]
    api.state.reasons = ["the disk is full"]
    lines = (await ask("status")).out.splitlines()
    assert "not ready: the disk is full" in lines[0]
    assert lines[-1] == "Next     r3mes logs   (the disk is full)"


async def test_health(ask: Ask, api: Api, cli: Cli) -> None:
    assert await ask("health") == Ran(0, "ready\n", "")
    (cli.datadir / "api-key").unlink()  # it needs none
    assert (await ask("health")).code == 0
    api.state.reasons = ["the node is stopping"]
    ran = await ask("health")
    assert (ran.code, ran.out) == (75, "")
    assert ran.err.startswith("error R3-NODE-002: the node is stopping. ")
    ran = await ask("health", "--json")
    assert ran.code == 75
    assert json.loads(ran.out) == {"ready": False, "reasons": ["the node is stopping"]}


async def test_json_of_the_read_commands(ask: Ask) -> None:
    assert json.loads((await ask("status", "--json")).out)["peer_id"] == "12D3KooWtest"
    assert [m["id"] for m in json.loads((await ask("models", "--json")).out)] == [
        "org/tiny",
        "other",
        "org/vectors",
    ]


async def test_an_answer_as_long_as_the_whole_log(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STATUS, "version", "x" * (17 << 20))
    ran = await ask("status", "--json")
    assert (ran.code, len(json.loads(ran.out)["version"])) == (0, 17 << 20), ran.err


async def test_tables(ask: Ask) -> None:
    peers = (await ask("peers")).out.splitlines()
    assert peers[0].split() == ["PEER", "MODE", "RTT", "MODELS", "SERVED", "FAILED", "AGE"]
    assert peers[1].split()[:6] == ["12D3KooWpeer", "direct", "12ms", "other", "7", "1"]
    models = (await ask("models")).out.splitlines()
    assert models[1].split() == ["org/tiny", "local", "512", "100", "200", "abababababab"]


async def test_chat(ask: Ask, api: Api) -> None:
    ran = await ask("chat", "Hi")
    assert (ran.code, ran.out) == (0, "Hello, world\n"), ran.err
    assert ran.err.startswith("-- 2 tokens · ttft ")
    assert ran.err.rstrip().endswith(
        "peer 12D3KooWtest · 0.000007 REMES · receipt cdcdcdcdcdcdcdcd"
    )
    assert api.gateway.requests[0].model == "org/tiny"


async def test_chat_from_a_pipe(ask: Ask, api: Api) -> None:
    ran = await ask("chat", "--model", "org/tiny", "--max-tokens", "5", stdin="From a pipe\n")
    assert (ran.code, ran.out) == (0, "Hello, world\n"), ran.err
    assert api.gateway.requests[0].messages[0]["content"] == "From a pipe\n"
    assert api.gateway.requests[0].max_tokens == 5
    assert (await ask("chat", stdin=" \n")).code == 2


async def test_an_answer_holds_no_commands_for_the_terminal(ask: Ask, api: Api) -> None:
    api.gateway.words = ("\x1b[2J\x1b]0;mine\x07a\tb\r\n", "\x9b31mw\N{ZERO WIDTH JOINER}\x00\x7f")
    ran = await ask("chat", "Hi")
    assert ran.out == "[2J]0;minea\tb\n31mw\N{ZERO WIDTH JOINER}\n"


async def test_chat_with_an_unknown_model(ask: Ask) -> None:
    ran = await ask("chat", "--model", "none", "Hi")
    assert ran.code == 66
    assert ran.err == (
        "error R3-MODEL-001: no connected peer serves 'none'. Choose one of `r3mes models`.\n"
    )


async def test_chat_that_breaks_off(ask: Ask, api: Api) -> None:
    api.gateway.words = ("Hel", NoPeer("nobody is left"))
    ran = await ask("chat", "Hi")
    assert ran.code == 69
    assert ran.err.startswith("error R3-NET-001: nobody is left. ")


@pytest.mark.parametrize("words", [("status",), ("health",), ("models",), ("chat", "Hi")])
async def test_nobody_runs(ask: Ask, api: Api, words: Sequence[str]) -> None:
    api.server.drain()
    await trio.testing.wait_all_tasks_blocked(0.1)
    ran = await ask(*words)
    assert ran.code == 69
    assert ran.err.startswith("error R3-NODE-003: nothing answers at http://127.0.0.1:")
    assert "`r3mes run`" in ran.err


async def test_a_configuration_that_became_wrong_hides_no_node_that_runs(
    ask: Ask, cli: Cli, admin: None
) -> None:
    (cli.datadir / "config.toml").write_text("nonsense [[[")
    for words in (("health",), ("status",), ("models",)):
        ran = await ask(*words)
        assert (ran.code, ran.err.startswith("warning R3-CONF-001: ")) == (0, True), words
    remove_running(cli.datadir)
    ran = await ask("health")
    assert (ran.code, ran.err.startswith("error R3-CONF-001: ")) == (78, True)


async def test_another_configuration_that_is_wrong_leads_to_no_node(
    ask: Ask, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without that file nobody knows which node is meant."""
    (other := tmp_path / "other.toml").write_text("nonsense [[[")
    monkeypatch.setenv("R3MES_NODE__DATADIR", str(cli.datadir))
    with pytest.raises(ConfigError, match="not TOML"):
        Session(other, None).to_ask()


async def test_a_node_that_hangs(ask: Ask, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r3mes.node.cli.api.TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(cli.datadir / "admin.sock"))
        silent.listen()
        ran = await ask("models", "ps")
    assert ran.code == 69
    assert f"the node (pid {os.getpid()}) did not answer in 0.05 s" in ran.err
    assert "`r3mes run`" not in ran.err


@pytest.mark.parametrize(("words", "stdin"), [(("chat", "caf\udce9"), ""), (("chat",), "\udce9")])
async def test_chat_of_what_is_no_utf8(
    ask: Ask, api: Api, words: Sequence[str], stdin: str
) -> None:
    ran = await ask(*words, stdin=stdin)
    assert ran.code == 2
    assert ran.err.startswith("error R3-REQ-001: the question is not text in UTF-8. ")
    assert api.gateway.requests == []


async def test_chat_while_the_model_is_loaded(
    ask: Ask, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.gateway, "models", _no_models)
    ran = await ask("chat", "Hi")
    assert ran.code == 66
    api.state.reasons = ["model tiny: loading"]
    ran = await ask("chat", "Hi")
    assert ran.code == 75
    assert ran.err.startswith("error R3-NODE-002: no model can be asked yet: model tiny: loading. ")


async def _no_models() -> list[ModelEntry]:
    return []


async def test_the_key_is_not_for_strangers(ask: Ask, api: Api, cli: Cli) -> None:
    """The node is down, and another program listens where it would."""
    remove_running(cli.datadir)
    for words in (("status",), ("models",), ("chat", "Hi"), ("chat", "--model", "m", "Hi")):
        ran = await ask(*words)
        assert (ran.code, "R3-NODE-003" in ran.err) == (69, True), words
    assert api.gateway.requests == []


async def test_wrong_key(ask: Ask, cli: Cli) -> None:
    (cli.datadir / "api-key").write_text("r3k_wrong\n")
    ran = await ask("status")
    assert ran.code == 77
    assert "R3-AUTH-001" in ran.err
    assert "api-key" in ran.err
    assert "r3k_wrong" not in ran.err


async def test_key_that_others_can_read(ask: Ask, cli: Cli) -> None:
    (cli.datadir / "api-key").chmod(0o644)
    ran = await ask("status")
    assert ran.code == 78
    assert "chmod 600" in ran.err


@pytest.fixture
async def admin(api: Api, cli: Cli, ask: Ask, nursery: trio.Nursery) -> None:
    """The same node on the admin socket in the data directory; no key is left."""
    app = build_admin_app(gateway=api.gateway, state=api.state, rpc=api.rpc)
    socket = cli.datadir / "admin.sock"
    await nursery.start(HttpServer(app, listen=f"unix:{socket}", drain_seconds=5).run)
    (cli.datadir / "api-key").unlink()


async def test_the_admin_socket_needs_no_key(ask: Ask, api: Api, admin: None) -> None:
    api.server.drain()  # nobody listens on TCP any more
    await trio.testing.wait_all_tasks_blocked(0.1)
    for words in (("status",), ("models",), ("health",)):
        assert (await ask(*words)).code == 0, words


async def test_chat_where_the_key_is_a_service_s(
    ask: Ask, api: Api, admin: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "key_is_closed", lambda config: True)
    api.server.drain()
    await trio.testing.wait_all_tasks_blocked(0.1)
    ran = await ask("chat", "--model", "org/tiny", "Hi")
    assert ran.code == 0, ran.err
    assert ran.out


async def test_calls_and_their_errors(cli: Cli, admin: None) -> None:
    config = load(
        file=cli.datadir / "config.toml", env={}, flags={"node.datadir": str(cli.datadir)}
    )
    asked = partial(call, config.config)
    assert (await trio.to_thread.run_sync(asked, "node_info"))["peer_id"] == "12D3KooWtest"
    with pytest.raises(MethodNotFound, match="none_such"):
        await trio.to_thread.run_sync(asked, "none_such")
    with pytest.raises(BadRequest):
        await trio.to_thread.run_sync(partial(asked, "node_info", wrong=1))


async def test_without_the_socket_the_key_is_used(ask: Ask, cli: Cli) -> None:
    (cli.datadir / "admin.sock").write_text("no socket")
    assert (await ask("status")).code == 0
    (cli.datadir / "api-key").unlink()
    ran = await ask("status")
    assert ran.code == 78
    assert "run `r3mes init`" in ran.err.lower()
