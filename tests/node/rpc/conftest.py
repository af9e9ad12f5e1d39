"""Callers of a dispatcher: one beside it, with some scopes; and one over a real WebSocket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio
from websockets.exceptions import ConnectionClosed
from websockets.trio.client import connect

from r3mes.actors.active import Active
from r3mes.actors.gateway import ChatRequest
from r3mes.actors.observing import Watched, unobserved
from r3mes.errors import Unauthenticated
from r3mes.node.events import Events
from r3mes.node.http.app import build_app
from r3mes.node.http.guards import Allowed
from r3mes.node.http.rates import Rates
from r3mes.node.http.server import HttpServer
from r3mes.node.rpc.context import Context
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.methods.infer import Estimates, InferMethods
from r3mes.node.rpc.methods.infer_stream import InferStream
from r3mes.node.rpc.methods.node import NodeMethods
from r3mes.node.rpc.methods.node_events import NodeEvents
from tests.node.conftest import (
    KEYS,
    UNLIMITED,
    SmallAnswer,
    SmallGateway,
    SmallKey,
    SmallModel,
    SmallState,
)


@dataclass(frozen=True)
class Key:
    id: str = "test"
    name: str = "test"
    scopes: frozenset[str] = frozenset("riwa")
    models: tuple[str, ...] | None = None
    rpm: int | None = None
    expires_ms: int | None = None


@dataclass
class Caller:
    """Asks ``rpc``; the result, or the whole error."""

    rpc: Dispatcher
    key: Key = field(default_factory=Key)

    async def __call__(self, name: str, /, **params: object) -> Any:
        call = {"jsonrpc": "2.0", "id": 1, "method": name, "params": params}
        told = await self.rpc.answer(msgspec.json.encode(call), Context(self.key))
        assert told is not None
        answer = msgspec.json.decode(told)
        return answer["result"] if "result" in answer else answer["error"]


class ChangingKeyring:
    """Knows the keys of the other tests until they are revoked."""

    def __init__(self) -> None:
        self.keys = dict(KEYS)

    async def check(self, secret: str) -> SmallKey:
        if secret not in self.keys:
            raise Unauthenticated("the API key is not known")
        return self.keys[secret]


@dataclass
class ListedGateway:
    """Enters the requests of another, as the node's own does."""

    gateway: SmallGateway
    active: Active

    @asynccontextmanager
    async def complete(self, request: ChatRequest) -> AsyncIterator[SmallAnswer]:
        watched = Watched(unobserved, "api", request.model)
        with watched, self.active.enter(watched, request.request_id, request.key_id):
            async with self.gateway.complete(request) as answer:
                yield answer

    async def models(self) -> list[SmallModel]:
        return await self.gateway.models()

    async def choose(self, request: ChatRequest) -> ChatRequest:
        return await self.gateway.choose(request)


@dataclass
class Surface:
    """A server whose parts a test can reach."""

    address: str
    events: Events
    keyring: ChangingKeyring
    rates: Rates
    stopping: trio.Event
    gateway: SmallGateway
    active: Active

    def connect(self, key: str | None = "r3k_read", **headers: str) -> Any:
        given = {"Authorization": f"Bearer {key}"} if key else {}
        return connect(
            f"ws://{self.address}/rpc", additional_headers={**given, **headers}, compression=None
        )


@pytest.fixture
async def surface(nursery: trio.Nursery) -> AsyncIterator[Surface]:
    events, keyring, rates = Events(now_ms=lambda: 7, kept=50), ChangingKeyring(), Rates(UNLIMITED)
    state, stopping, active, gateway = SmallState(), trio.Event(), Active(), SmallGateway()
    listed = ListedGateway(gateway, active)
    methods = InferMethods(listed, active, cast(Estimates, None)), InferStream(listed)
    app = build_app(
        gateway=gateway,
        keyring=keyring,
        state=state,
        rpc=Dispatcher(NodeMethods(state), NodeEvents(events), *methods),
        rates=rates,
        key_file=Path("key"),
        allowed=Allowed(),
        stopping=stopping,
    )
    http = HttpServer(app, listen="127.0.0.1:0", drain_seconds=1)
    address = await nursery.start(http.run)
    yield Surface(address, events, keyring, rates, stopping, gateway, active)
    http.drain()


async def ask(socket: Any, name: str, **params: object) -> Any:
    """The result of a call, or its error; notifications before it are not looked at."""
    await socket.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": name, "params": params}))
    while True:
        answer = json.loads(await socket.recv())
        if "id" in answer:
            assert answer["id"] == 1
            return answer["result"] if "result" in answer else answer["error"]


async def event(socket: Any) -> Any:
    """The parameters of the next message, which must be an event."""
    told = json.loads(await socket.recv())
    assert (told["method"], "id" in told) == ("node_event", False)
    return told["params"]


async def closed(socket: Any) -> ConnectionClosed:
    """How the node ended the connection, whatever it says before."""
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            await socket.recv()
    return caught.value
