"""A real Hypercorn server on loopback, with a small gateway and keyring behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import numpy as np
import pytest
import trio

from r3mes.actors.gateway import ChatRequest
from r3mes.actors.requests.logprobs import Logprob
from r3mes.config.schema import Limits
from r3mes.errors import ContextLengthExceeded, ModelNotFound, Unauthenticated
from r3mes.node.audit import FILE, _events, keep_audit_log
from r3mes.node.embedding import Embedded, EmbeddingModel, EmbeddingRequest
from r3mes.node.http import server
from r3mes.node.http.app import build_app
from r3mes.node.http.guards import Allowed
from r3mes.node.http.rates import Rates
from r3mes.node.http.server import HttpServer
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.methods import NAMESPACES
from r3mes.node.rpc.methods.infer_embed import InferEmbed
from r3mes.node.rpc.methods.node import NodeMethods
from r3mes.node.rpc.methods.rpc import RpcMethods
from r3mes.node.state import Check, Health, NodeInfo

KEY_FILE = Path("/home/al/.config/r3mes/api-key")
PAGE = "https://chat.example"
"""The only origin that the server takes besides its own."""
UNLIMITED = Limits(rpm_per_key=0, rpm_per_address=0, auth_failures_per_address=0)


@dataclass
class SmallKey:
    id: str
    name: str
    scopes: set[str]
    models: tuple[str, ...] | None = None
    rpm: int | None = None
    expires_ms: int | None = None


KEYS = {
    f"r3k_{name}": SmallKey(name, f"r3k_{name}", scopes, models)
    for name, scopes, models in (
        ("both", {"r", "i"}, None),
        ("read", {"r"}, None),
        ("none", set[str](), None),
        ("i", {"i"}, None),
        ("w", {"w"}, None),
        ("a", {"a"}, None),
        ("all", {"r", "i", "w", "a"}, None),
        ("tiny", {"r", "i"}, ("org/tiny",)),
    )
}


class SmallKeyring:
    async def check(self, secret: str) -> SmallKey:
        if secret not in KEYS:
            raise Unauthenticated("the API key is not known")
        return KEYS[secret]


@dataclass
class SmallModel:
    id: str
    hash_hex: str = "ab" * 32
    context: int = 512
    owned_by: str = "local"
    price_prompt: int = 100
    price_completion: int = 200


@dataclass
class SmallAnswer:
    gateway: SmallGateway
    request: ChatRequest
    peer: str = "12D3KooWtest"
    route: str = "peer"
    finish_reason: str = "stop"
    prompt_tokens: int = 3
    completion_tokens: int = 2
    cost_uremes: int = 7
    receipt_id: str = "cd" * 32
    queue_ms: float = 1.5

    @property
    def auto(self) -> Mapping[str, object] | None:
        return self.request.auto

    @property
    def model(self) -> str:
        return self.request.model

    @property
    def calls(self) -> str:
        return "hermes" if self.request.tools else ""

    def __post_init__(self) -> None:
        self._words = iter(self.gateway.words)
        self._read: list[str] = []

    def __aiter__(self) -> AsyncIterator[str]:
        return self  # no generator: one that is given up on the way warns when it is collected

    def new_logprobs(self) -> Sequence[Sequence[Logprob]]:
        """Of each word that was read, as if it were one token; its second likeliest is ``x``."""
        new, self._read = self._read, []
        if not self.request.logprobs:
            return []
        own = [Logprob(word.encode(), -0.5) for word in new]
        return [[one, own[0], Logprob(b"\xf0x", -9.0)][: self.request.logprobs] for one in own]

    async def __anext__(self) -> str:
        word = next(self._words, None)
        if word is None:
            raise StopAsyncIteration
        await self.gateway.turn()
        if isinstance(word, Exception):
            raise word
        self._read.append(word)
        return word


@dataclass
class SmallGateway:
    """Answers with ``words``; an exception among them is raised in its turn."""

    words: Sequence[str | Exception] = ("Hello", ", world")
    wait_to_open: float = 0.0
    wait: float = 0.0
    hold: trio.Event | None = None
    requests: list[ChatRequest] = field(default_factory=list)
    asked: trio.Event = field(default_factory=trio.Event)
    cancelled: trio.Event = field(default_factory=trio.Event)
    left: trio.Event = field(default_factory=trio.Event)
    refuse: Exception | None = None

    async def turn(self) -> None:
        await trio.sleep(self.wait)
        if self.hold is not None:
            await self.hold.wait()

    @asynccontextmanager
    async def complete(self, request: ChatRequest) -> AsyncIterator[SmallAnswer]:
        self.requests.append(request)
        self.asked.set()
        await trio.sleep(self.wait_to_open)
        if self.refuse is not None:
            raise self.refuse
        if request.model != "org/tiny":
            raise ModelNotFound(f"no connected peer serves {request.model!r}", param="model")
        if len(str(request.messages)) > 5000:
            raise ContextLengthExceeded("1300 tokens, the context is 512", param="messages")
        try:
            yield SmallAnswer(self, request)
        except trio.Cancelled:
            self.cancelled.set()
            raise
        finally:
            self.left.set()

    async def models(self) -> list[SmallModel]:
        return [SmallModel("org/tiny"), SmallModel("other")]

    async def choose(self, request: ChatRequest) -> ChatRequest:
        auto = {"route": "chat", "model": "org/tiny", "score": 0.5, "abstained": False, "why": "ü"}
        return replace(request, model="org/tiny", auto=auto)


class SmallEmbeddings:
    """Embeds by counting; waits at ``hold`` first if there is one."""

    def __init__(self) -> None:
        self.requests: list[EmbeddingRequest] = []
        self.hold: trio.Event | None = None
        self.cancelled = trio.Event()

    def models(self) -> list[EmbeddingModel]:
        return [EmbeddingModel("org/vectors", "cd" * 32, 256, 3, shortens=True)]

    async def embed(self, request: EmbeddingRequest) -> Embedded:
        self.requests.append(request)
        if self.hold is not None:
            try:
                await self.hold.wait()
            except trio.Cancelled:
                self.cancelled.set()
                raise
        if request.model != "org/vectors":
            raise ModelNotFound(f"{request.model!r} is not here", param="model")
        rows = [[len(text), 0.1, -1e-9] for text in request.texts]
        vectors = np.array(rows, np.float32)[:, : request.dimensions]
        return Embedded("org/vectors", vectors, sum(map(len, request.texts)))


STATUS = {
    "version": "0.1.0",
    "chain_id": "test-1",
    "peer_id": "12D3KooWtest",
    "addrs": ["/ip4/127.0.0.1/tcp/1/p2p/12D3KooWtest"],
    "uptime_s": 3700.0,
    "reachability": {"verdict": "unknown"},
    "engine": "torch",
    "models": [
        {
            "name": "org/tiny",
            "state": "ready",
            "why": None,
            "engine": "torch",
            "device": "cpu",
            "context": 512,
            "memory_bytes": 3 << 20,
            "idle_s": 12.0,
        }
    ],
    "load": {"running": 1, "queued": 2, "slots": 4},
    "last_60s": {"ok": 2, "cancelled": 0, "refused": 1, "failed": 0, "ttft_p50_s": 0.21},
    "routed": {"in": 3, "out": 1},
    "today": {"earned_uremes": 126, "spent_uremes": 0},
    "peers": [
        {
            "peer_id": "12D3KooWpeer",
            "wallet": "remes1peer",
            "address": "/ip4/127.0.0.1/tcp/2",
            "direction": "inbound",
            "mode": "direct",
            "rtt_ms": 12.3,
            "age_s": 90.0,
            "models": [{"name": "other", "hash": "ab"}],
            "served": 7,
            "failed": 1,
        }
    ],
    "wallet": {"address": "remes1own", "backed_up": False},
    "loop_lag_p99_ms": 0.1,
}


class SmallState:
    reasons: Sequence[str] = ()

    def info(self) -> NodeInfo:
        return NodeInfo("12D3KooWtest", "0.1.0", "test-1", "2026-11-25T00:00:00+00:00", 1, [])

    async def health(self) -> Health:
        return Health(not self.reasons, [Check("all", not self.reasons, "; ".join(self.reasons))])

    async def status(self) -> Mapping[str, object]:
        return STATUS | {"ready": not self.reasons, "reasons": list(self.reasons)}

    async def not_ready(self) -> Sequence[str]:
        return self.reasons


@dataclass
class Api:
    """The server as tests see it."""

    address: str
    gateway: SmallGateway
    state: SmallState
    rpc: Dispatcher
    server: HttpServer
    rates: Rates
    embeddings: SmallEmbeddings

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def client(self, key: str | None = "r3k_both") -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=10)

    async def raw(self, data: bytes) -> bytes:
        """Send ``data`` as it is and return all that comes back."""
        host, port = self.address.split(":")
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            await stream.send_all(data)
            return b"".join([part async for part in stream])


@pytest.fixture
def audited(tmp_path: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The events of the audit log so far, without their times."""
    keep_audit_log(tmp_path)

    def read() -> list[dict[str, Any]]:
        path = tmp_path / FILE
        lines = path.read_text().splitlines() if path.exists() else []
        return [{k: v for k, v in json.loads(line).items() if k != "at"} for line in lines]

    yield read
    _events.handlers.clear()


@pytest.fixture
async def api(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr(server, "IDLE_SECONDS", 1.0)
    gateway, state, embeddings = SmallGateway(), SmallState(), SmallEmbeddings()
    embed = InferEmbed(gateway, embeddings)
    rpc = Dispatcher(NodeMethods(state), embed, *bare_namespaces(NodeMethods, InferEmbed))
    rates = Rates(UNLIMITED)
    app = build_app(
        gateway=gateway,
        keyring=SmallKeyring(),
        state=state,
        rpc=rpc,
        rates=rates,
        key_file=KEY_FILE,
        max_body_bytes=65536,
        allowed=Allowed(origins=[PAGE]),
        embeddings=embeddings,
    )
    http = HttpServer(app, listen="127.0.0.1:0", drain_seconds=5)
    address = await nursery.start(http.run)
    yield Api(address, gateway, state, rpc, http, rates, embeddings)
    http.drain()


def bare_namespaces(*but: type) -> list[object]:
    """All others without their parts: good for scopes and parameters, which come before them."""
    return [object.__new__(kind) for kind in NAMESPACES if kind not in (RpcMethods, *but)]


Body: TypeAlias = dict[str, Any]

CHAT: Body = {"model": "org/tiny", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def chat() -> Body:
    """A body that is fine."""
    return dict(CHAT)
