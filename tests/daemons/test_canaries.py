"""Secrets planted in a real node are found nowhere but in the files that keep them."""

from __future__ import annotations

import base64
import json
import os
import signal
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from mnemonic import Mnemonic
from websockets.sync.client import unix_connect

from benchmarks.daemons import Daemon, children_of, wait
from r3mes.chain.keys.keystore import open_keystore
from r3mes.config.load import load
from r3mes.config.secrets import read_secret
from r3mes.node.vault import Vault
from r3mes.p2p.identity import NodeKey
from tests.daemons.collector import Collector, collecting

pytestmark = [pytest.mark.slow, pytest.mark.net]

PROMPT = "canary prompt 5f1c0de9a7"
TRACE = "the last request"
"""16 bytes, as an id is."""
KEEPERS = {"api-key", "keys/node.key", "wallets/default.passphrase", "admin.key"}
"""The files that hold a secret, readable by their owner alone; the wallet itself is encrypted."""
READS = ("node_info", "node_status", "node_health", "node_tasks", "net_peers", "net_bans",
         "net_reachability", "model_list", "model_ps", "infer_active", "wallet_list",
         "earn_receipts", "earn_summary", "key_list", "config_get", "db_status", "diag_logs",
         "rpc.discover", "rpc_modules")  # fmt: skip
COMMANDS = ("status --json", "models", "peers", "health", "config show --origin", "config check",
            "keys list --json", "wallet list --json", "wallet show")  # fmt: skip


@dataclass
class Told:
    """Everything that the node told anybody, with where it said so."""

    texts: dict[str, str] = field(default_factory=dict)

    def add(self, where: str, text: str) -> None:
        self.texts[f"{len(self.texts)} {where}"] = text


@dataclass
class Node:
    daemon: Daemon
    told: Told
    secrets: dict[str, bytes]
    traces: int = 0
    """Spans that it sent."""

    @property
    def api_key(self) -> str:
        return self.secrets["API key"].decode()

    def rpc(self, method: str, params: object) -> None:
        transport = httpx.HTTPTransport(uds=self.daemon.running.admin)
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        with httpx.Client(transport=transport, base_url="http://admin", timeout=60) as client:
            self.told.add(f"rpc {method}", _no_answers(client.post("/rpc", json=message)))

    def stream(self, params: object) -> None:
        message = {"jsonrpc": "2.0", "id": 1, "method": "infer_stream", "params": params}
        with unix_connect(self.daemon.running.admin, "ws://admin/rpc") as socket:
            socket.send(json.dumps(message))
            while True:
                said = json.loads(socket.recv(timeout=60))
                said.get("params", {}).get("chunk", {}).pop("choices", None)
                self.told.add("rpc infer_stream", json.dumps(said))
                if "error" in said or said.get("method") == "infer_end":
                    return

    def post(self, body: object, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = httpx.post(
            f"{self.daemon.url}/v1/chat/completions",
            content=content,
            headers={**self.daemon.headers, **headers},
            timeout=60,
        )
        self.told.add("chat", _no_answers(answer))

    def get(self, path: str, **headers: str) -> httpx.Response:
        answer = httpx.get(
            f"{self.daemon.url}{path}", headers={**self.daemon.headers, **headers}, timeout=30
        )
        self.told.add(f"GET {path}", str(answer.headers) + answer.text)
        return answer

    def command(self, *words: str) -> None:
        ran = self.daemon.command(*words)
        self.told.add(" ".join(words), ran.stdout + ran.stderr)


def _no_answers(answer: httpx.Response) -> str:
    """What the node says of a chat; the text of the answer is the model's, and the caller's."""
    try:
        content = answer.json()
    except ValueError:
        return str(answer.headers)
    for part in (content, content.get("result")):
        if isinstance(part, dict):
            part.pop("choices", None)
    return str(answer.headers) + json.dumps(content)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that went through all of it, and stopped."""
    with collecting() as collector:
        yield from _whole_life(tmp_path_factory.mktemp("canaries") / "node", collector)


def _whole_life(folder: Path, collector: Collector) -> Iterator[Node]:
    daemon = Daemon(folder)
    daemon.configure(
        models=[{"id": "builtin"}],
        log={"level": "debug"},
        otel={"endpoint": collector.url},
        limits={"auth_failures_per_address": 100},
    )
    daemon.command(
        "keys", "create", "admin", "--scopes", "riwa", "--out", str(folder / "admin.key")
    )
    secrets = _secrets(folder)
    daemon.start().wait_for_model("builtin")
    made = Node(daemon, Told(), secrets)
    try:
        assert daemon.process is not None
        pids = [daemon.process.pid, *children_of(daemon.process.pid)]
        for pid in pids:
            for name in ("cmdline", "environ"):
                made.told.add(f"{name} of {pid}", Path(f"/proc/{pid}/{name}").read_text())
        for step in STEPS:
            step(made)
        last = TRACE.encode().hex()
        made.post({"model": "builtin", "messages": [{"role": "user", "content": PROMPT}]},
                  traceparent=f"00-{last}-{'1' * 16}-01")  # fmt: skip
        wait(lambda: any(s.trace_id == TRACE.encode() for _, s in collector.spans()) or None,
             "the traces")  # fmt: skip
        made.traces = len(collector.spans())
        for body in collector.bodies:
            made.told.add("trace", body.decode("latin-1"))
        yield made
    finally:
        daemon.end()


def _secrets(folder: Path) -> dict[str, bytes]:
    passphrase = read_secret(folder / "wallets" / "default.passphrase")
    words = open_keystore(folder / "wallets" / "default.json", passphrase).reveal_words()
    return {
        "API key": read_secret(folder / "api-key").encode(),
        "admin key": read_secret(folder / "admin.key").encode(),
        "passphrase": passphrase.encode(),
        "words": words.encode(),
        "entropy": bytes(Mnemonic("english").to_entropy(words)),
        "node key": (folder / "keys" / "node.key").read_bytes()[4:],
        "prompt": PROMPT.encode(),
    }


def _chats(node: Node) -> None:
    chat: dict[str, Any] = {
        "model": "builtin",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 4,
    }
    node.post(chat)
    node.post({**chat, "stream": True})
    node.post({**chat, "messages": [{"role": "user", "content": PROMPT * 4000}]})
    node.post({**chat, "messages": [{"role": PROMPT, "content": PROMPT}]})
    node.post({**chat, "messages": PROMPT})
    node.post({**chat, "stop": [PROMPT * 9]})
    node.post({**chat, "tools": [{"function": PROMPT}]})
    node.post({**chat, "temperature": PROMPT})
    node.post(json.dumps(chat).encode()[:-5])
    node.rpc("infer_complete", chat)
    node.rpc("infer_complete", {**chat, "messages": [PROMPT]})
    node.stream(chat)
    node.stream({**chat, "messages": [{"role": "user", "content": PROMPT * 4000}]})
    node.stream({**chat, "messages": [PROMPT]})
    node.rpc("infer_stream", chat)
    node.rpc("infer_estimate", {"model": "builtin", "messages": chat["messages"]})
    node.rpc("infer_cancel", {"request_id": PROMPT})
    node.rpc("node_info", {"wrong": PROMPT})
    node.rpc("node_info", [PROMPT])


def _wrong_keys(node: Node) -> None:
    key = node.api_key
    for value in (f"Basic {key}", f"Bearer {key}x", f"Bearer  {key}", key, f"Bearer {key[:-9]}"):
        node.get("/v1/models", authorization=value)
    node.get("/v1/models", **{"x-request-id": "mine", "user-agent": key, "x-api-key": key})
    node.get(f"/v1/models?api_key={key}")
    node.post(b"{", authorization=f"Bearer {key}, Bearer {key}")
    # A key in a path is told to the one who sent it, and to nobody else.
    httpx.get(f"{node.daemon.url}/{key}", headers=node.daemon.headers)


def _reads(node: Node) -> None:
    for method in READS:
        node.rpc(method, {})
    for path in ("/node/status", "/openapi.json", "/rpc/openrpc.json", "/readyz", "/version"):
        node.get(path)
    if metrics := node.daemon.running.metrics:
        node.told.add("metrics", httpx.get(f"http://{metrics}/metrics", timeout=30).text)
    node.rpc("diag_bundle", {})
    (bundle,) = (node.daemon.folder / "bundles").iterdir()
    with zipfile.ZipFile(bundle) as parts:
        for name in parts.namelist():
            node.told.add(f"bundle: {name}", parts.read(name).decode())
    for words in COMMANDS:
        node.command(*words.split())


def _passphrases(node: Node) -> None:
    passphrase = node.secrets["passphrase"].decode()
    node.rpc("wallet_lock", {})
    for given in (passphrase + "x", [passphrase], passphrase):
        node.rpc("wallet_unlock", {"passphrase": given, "ttl_s": "soon"})
        node.rpc("wallet_unlock", {"passphrase": given})
    node.rpc("wallet_unlock", {"secret": passphrase})
    node.rpc("wallet_unlock", [1, passphrase])


def _trouble(node: Node) -> None:
    """A configuration that is nonsense, and a worker that dies while it writes."""
    config = node.daemon.folder / "config.toml"
    good = config.read_text()
    config.write_text(good + "\n[nonsense]\n")
    node.daemon.signal(signal.SIGHUP)
    wait(lambda: "not reloaded" in node.daemon.log.read_text() or None, "the refusal")
    config.write_text(good)
    assert node.daemon.process is not None
    for pid in children_of(node.daemon.process.pid):
        os.kill(pid, signal.SIGKILL)
    node.post({"model": "builtin", "messages": [{"role": "user", "content": PROMPT}]})


STEPS: tuple[Callable[[Node], None], ...] = (_chats, _wrong_keys, _reads, _passphrases, _trouble)


def forms(secret: bytes) -> Iterator[bytes]:
    """What a secret may look like in a text."""
    yield secret
    yield secret.hex().encode()
    yield base64.b64encode(secret).rstrip(b"=")
    yield base64.urlsafe_b64encode(secret).rstrip(b"=")
    yield repr(secret)[2:-1].encode()


def found(secrets: dict[str, bytes], data: bytes) -> list[str]:
    parts = {
        **secrets,
        "API key": secrets["API key"].split(b"_")[2],
        "admin key": secrets["admin key"].split(b"_")[2],
        "words": b" ".join(secrets["words"].split()[:6]),
    }
    return [name for name, secret in parts.items() if any(form in data for form in forms(secret))]


def test_nothing_that_the_node_told_has_a_secret(node: Node) -> None:
    assert len(node.told.texts) > 60
    assert node.traces > 20
    bad = {where: found(node.secrets, text.encode()) for where, text in node.told.texts.items()}
    assert {where: names for where, names in bad.items() if names} == {}


def test_no_file_has_a_secret_but_those_that_keep_it(node: Node) -> None:
    node.daemon.signal(signal.SIGTERM)
    assert node.daemon.wait() == 0
    folder = node.daemon.folder
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert {"log", "audit.log", "r3mes.sqlite3", "wallets/default.json"} <= files.keys()
    assert all(files[name].stat().st_mode & 0o777 == 0o600 for name in KEEPERS)
    assert b"debug" in files["log"].read_bytes()
    for event in (b"auth_failed", b"wallet_unlock_failed", b"wallet_opened", b"config_refused"):
        assert event in files["audit.log"].read_bytes(), event
    bad = {name: found(node.secrets, path.read_bytes()) for name, path in files.items()}
    assert {name: names for name, names in bad.items() if names and name not in KEEPERS} == {}
    assert all(bad[name] for name in KEEPERS)  # the search does find


def test_nothing_that_is_printed_in_a_debugger_has_a_secret(node: Node) -> None:
    folder = node.daemon.folder
    wallet_file = folder / "wallets" / "default.json"
    wallet = open_keystore(wallet_file, node.secrets["passphrase"].decode())
    loaded = load(file=folder / "config.toml", env={}, flags={"node.datadir": str(folder)})
    values = (
        loaded,
        loaded.config,
        wallet,
        Vault(wallet_file, wallet),
        NodeKey.load_or_create(folder / "keys" / "node.key"),
    )
    for value in values:
        assert found(node.secrets, f"{value!r} {value}".encode()) == [], type(value)
