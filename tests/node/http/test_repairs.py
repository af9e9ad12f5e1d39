"""Connections that end while something is sent, between two pings, or with too much."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.trio.worker_context import WorkerContext
from websockets.trio.client import connect
from wsproto import WSConnection
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, CloseConnection, TextMessage
from wsproto.events import Request as WebSocketRequest

from r3mes.node.http.repairs import Connection
from r3mes.node.http.server import HttpServer

if TYPE_CHECKING:
    from tests.node.conftest import Api

pytestmark = pytest.mark.net


class Heard:
    """A protocol that only notes what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def handle(self, event: Event) -> None:
        self.events.append(event)


async def test_what_is_sent_while_the_connection_closes_is_dropped() -> None:
    late = 0
    for _ in range(40):  # which of the two comes first is a matter of chance
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        client = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        async with listener, client, await listener.accept() as stream:
            made = Connection(cast(Any, None), Config(), WorkerContext(None), {}, cast(Any, stream))
            made.protocol = cast(Any, heard := Heard())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made._close)
                nursery.start_soon(made.protocol_send, RawData(b"pong"))
            late += any(isinstance(event, Closed) for event in heard.events)
    assert late > 0


async def test_a_websocket_that_ended_does_not_hold_up_the_stop(api: Api) -> None:
    server = HttpServer(api.server._app, listen="127.0.0.1:0", drain_seconds=60)
    headers = {"authorization": "Bearer r3k_read"}
    with trio.fail_after(15):  # pings are 20 s apart
        async with trio.open_nursery() as nursery:
            address = await nursery.start(server.run)
            async with connect(f"ws://{address}/rpc", additional_headers=headers) as socket:
                await socket.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "node_info"}))
                await socket.recv()
            server.drain()


async def test_after_too_much_the_close_is_still_heard(api: Api) -> None:
    caller = WSConnection(ConnectionType.CLIENT)
    asked = WebSocketRequest(
        host=api.address, target="/rpc", extra_headers=[(b"authorization", b"Bearer r3k_read")]
    )
    host, port = api.address.split(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(caller.send(asked))
        caller.receive_data(await stream.receive_some())
        assert isinstance(next(caller.events()), AcceptConnection)
        parts = [TextMessage("x" * 20_000, message_finished=False)] * 200
        said = [caller.send(part) for part in [*parts, CloseConnection(code=1000)]]
        with trio.fail_after(10):
            await stream.send_all(b"".join(said))
            heard = b"".join([part async for part in stream])
    assert (1009).to_bytes(2, "big") in heard
