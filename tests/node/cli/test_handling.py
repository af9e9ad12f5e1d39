"""peers and models with their subcommands, over an admin socket with the real methods behind it."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
import trio

from r3mes.actors.bans import Ban
from r3mes.chain.keys.keystore import create_keystore
from r3mes.chain.keys.wallet import Wallet
from r3mes.config.schema import Config
from r3mes.config.secrets import write_secret
from r3mes.errors import ModelNotFound, PeerUnreachable
from r3mes.ids import PeerId
from r3mes.node.catalogue import (
    ModelListed,
    ModelProcess,
    ModelShown,
    ModelState,
    ModelVerified,
)
from r3mes.node.doctor.finding import Subject
from r3mes.node.http.app import build_admin_app
from r3mes.node.http.server import HttpServer
from r3mes.node.logs.ring import Ring
from r3mes.node.peers import Connected, PeerShown, Reachability
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.methods.diag import DiagMethods
from r3mes.node.rpc.methods.model import ModelMethods
from r3mes.node.rpc.methods.net import NetMethods
from r3mes.node.rpc.methods.wallet import WalletMethods
from r3mes.node.running import Running, write_running
from r3mes.node.vault import Vault

if TYPE_CHECKING:
    from tests.node.cli.conftest import Cli, Ran
    from tests.node.conftest import Api

Ask: TypeAlias = "Callable[..., Awaitable[Ran]]"
Offered: TypeAlias = Callable[..., Awaitable[list[str]]]
pytestmark = pytest.mark.net


@dataclass
class SmallPeers:
    banned: list[Ban] = field(default_factory=list)

    async def shown(self) -> list[PeerShown]:
        raise NotImplementedError

    async def connect(self, addr: str) -> Connected:
        raise PeerUnreachable(f"{addr} does not answer")

    async def disconnect(self, peer: PeerId) -> None:
        """It goes."""

    async def ban(self, peer: PeerId, *, ttl_s: float | None, reason: str) -> Ban:
        self.banned.append(Ban(peer, reason, 0, None if ttl_s is None else int(ttl_s * 1000)))
        return self.banned[-1]

    async def unban(self, peer: PeerId) -> None:
        self.banned.clear()

    def bans(self) -> Sequence[Ban]:
        return self.banned

    def reachability(self) -> Reachability:
        raise NotImplementedError


class SmallCatalogue:
    state = "ready"

    def local(self) -> list[ModelListed]:
        raise NotImplementedError

    async def network(self) -> list[ModelListed]:
        raise NotImplementedError

    async def show(self, model: str) -> ModelShown:
        listed = ModelListed(model, "ab", 512, 100, 200, "12D3KooWpeer", "ready")
        return ModelShown(model, None, [listed])

    def processes(self) -> list[ModelProcess]:
        one = ("torch", "cpu", "bfloat16", 1024, 3 << 20, 0, 12.0, 1, 2, 4)
        return [ModelProcess("tiny", self.state, *one)]

    async def load(self, model: str) -> ModelState:
        return self._turn(model, "loading")

    async def unload(self, model: str, *, patience_s: float) -> ModelState:
        return self._turn(model, "unloaded")

    def _turn(self, model: str, state: str) -> ModelState:
        if model != "tiny":
            raise ModelNotFound(f"this node has no model named {model!r}")
        self.state = state
        return ModelState(model, state, None)

    async def verify(self, model: str) -> ModelVerified:
        ok = self.state == "ready"
        found, differing = ("aa" * 32, {}) if ok else ("bb" * 32, {"c": "changed"})
        return ModelVerified(model, ok, "aa" * 32, found, "/m", {"c": "dd"}, differing)


def _nobody() -> Subject:
    raise NotImplementedError


def _vault(datadir: Path) -> Vault:
    path = datadir / "wallets" / "default.json"
    create_keystore(path, Wallet.create(), "open sesame")
    return Vault(path)


@pytest.fixture
async def ask(cli: Cli, api: Api, nursery: trio.Nursery) -> Ask:
    cli.datadir.mkdir()
    ring = Ring()
    ring.add(1_795_582_208_000, "info", "r3mes.test", "it began")
    ring.add(1_795_582_209_000, "error", "r3mes.test", "it failed", "Traceback\nValueError")
    rpc = Dispatcher(
        NetMethods(SmallPeers()),
        ModelMethods(SmallCatalogue(), drain_seconds=1),
        DiagMethods(ring, _nobody),
        WalletMethods(Config(), _vault(cli.datadir)),
    )
    app = build_admin_app(gateway=api.gateway, state=api.state, rpc=rpc)
    listen = f"unix:{cli.datadir / 'admin.sock'}"
    await nursery.start(HttpServer(app, listen=listen, drain_seconds=5).run)

    async def ask(*words: str) -> Ran:
        return await trio.to_thread.run_sync(partial(cli, *words))

    return ask


async def test_connecting_says_why_not(ask: Ask) -> None:
    ran = await ask("peers", "connect", "/ip4/192.0.2.1/tcp/1/p2p/12D3KooWpeer")
    assert (ran.code, ran.err.split(":")[0]) == (69, "error R3-NET-003")
    assert (await ask("peers", "disconnect", "12D3KooWpeer")).code == 0


async def test_bans(ask: Ask) -> None:
    assert (await ask("peers", "bans")).out == "Nobody is banned.\n"
    ran = await ask("peers", "ban", "12D3KooWx", "--seconds", "60", "--reason", "floods")
    assert "r3mes peers unban 12D3KooWx" in ran.out
    head, row = (await ask("peers", "bans")).out.splitlines()
    assert head.split() == ["PEER", "SINCE", "ENDS", "REASON"]
    assert row.split()[0] == "12D3KooWx"
    assert row.endswith(" ago  in 0s  floods")
    (ban,) = json.loads((await ask("peers", "bans", "--json")).out)
    assert ban["until_ms"] == 60000
    assert (await ask("peers", "unban", "12D3KooWx")).code == 0
    assert json.loads((await ask("peers", "bans", "--json")).out) == []


async def test_models_at_work(ask: Ask) -> None:
    lines = (await ask("models", "ps")).out.splitlines()
    assert lines[1].split() == "tiny ready torch cpu 3 MiB 1024 1 of 4 2 12s".split()  # noqa: SIM905
    assert "r3mes models load tiny" in (await ask("models", "unload", "tiny")).out
    assert json.loads((await ask("models", "ps", "--json")).out)[0]["state"] == "unloaded"
    assert (await ask("models", "load", "tiny")).out.startswith("tiny: loading")
    assert (await ask("models", "unload", "none")).code == 66


async def test_verifying_a_model_says_by_its_status_what_came_of_it(ask: Ask) -> None:
    same = await ask("models", "verify", "tiny")
    assert (same.code, same.out.startswith("ok  tiny: 1 files in /m, as loaded")) == (0, True)
    await ask("models", "unload", "tiny")
    changed = await ask("models", "verify", "tiny")
    assert (changed.code, changed.out.startswith("CHANGED  tiny: ")) == (1, True)
    assert json.loads((await ask("models", "verify", "tiny", "--json")).out)["ok"] is False


async def test_one_model(ask: Ask) -> None:
    shown = (await ask("models", "show", "other")).out
    assert "offered by 12D3KooWpeer at 100 / 200 uremes per million tokens" in shown
    assert json.loads((await ask("models", "show", "other", "--json")).out)["local"] is None


async def test_logs(ask: Ask) -> None:
    assert (await ask("logs")).out.splitlines() == [
        "2026-11-25T04:50:08Z info r3mes.test: it began",
        "2026-11-25T04:50:09Z error r3mes.test: it failed",
        "Traceback",
        "ValueError",
    ]
    assert (await ask("logs", "-n", "1", "--level", "info")).out.startswith("2026-11-25T04:50:09Z")
    (line,) = json.loads((await ask("logs", "--level", "warning", "--json")).out)
    assert (line["number"], line["message"]) == (2, "it failed")
    ran = await ask("logs", "--level", "loud")
    assert (ran.code, "level" in ran.err) == (2, True)


async def test_logs_of_a_node_that_is_down(cli: Cli) -> None:
    cli.datadir.mkdir()
    write_secret(cli.datadir / "api-key", "r3k_x")
    (cli.datadir / "config.toml").write_text('[api]\nlisten = "127.0.0.1:9"\n')
    ran = await trio.to_thread.run_sync(cli, "logs")
    assert (ran.code, "journalctl -u r3mes" in ran.err) == (69, True)


@pytest.fixture
def offered(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> Offered:
    """What bash is offered after these words; the last one is being typed."""

    async def offered(*words: str) -> list[str]:
        monkeypatch.setenv("_R3MES_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["r3mes", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        return (await ask()).out.split()

    return offered


async def test_completion(offered: Offered, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R3MES_NODE__DATADIR", str(cli.datadir))
    assert await offered("models", "unload", "") == ["tiny"]
    assert await offered("chat", "--model", "o") == ["org/tiny", "other"]
    assert await offered("config", "show", "api.l") == ["api.listen"]
    assert await offered("stat") == ["status"]
    assert await offered("keys", "revoke", "") == []  # this node knows no keys: no noise either


async def test_unlocking_the_wallet(ask: Ask, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    write_secret(secret, "open sesame")
    given = ("--passphrase-file", str(secret))
    assert " is open." in (await ask("wallet", "unlock", *given)).out
    assert " is locked." in (await ask("wallet", "lock")).out
    assert " is open." in (await ask("wallet", "unlock", *given, "--seconds", "60")).out
    secret.write_text("open barley\n")
    ran = await ask("wallet", "unlock", *given)
    assert (ran.code, "barley" in ran.out + ran.err) == (77, False)


async def test_a_passphrase_is_not_sent_over_tcp(cli: Cli, tmp_path: Path) -> None:
    cli.datadir.mkdir()
    secret = tmp_path / "secret"
    write_secret(secret, "open sesame")
    given = ("wallet", "unlock", "--passphrase-file", str(secret))
    assert (await trio.to_thread.run_sync(cli, *given)).code == 69
    write_running(cli.datadir, Running(os.getpid(), "", "", "127.0.0.1:9", ()))
    assert (await trio.to_thread.run_sync(cli, *given)).code == 77
