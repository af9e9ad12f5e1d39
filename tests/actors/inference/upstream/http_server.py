"""A small real HTTP server on loopback that plays the servers which a node can front."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import h11
import trio

READ = 65536


@dataclass
class Reply:
    """Status and body; of a stream the lines, and whether it is left open behind them."""

    status: int = 200
    body: bytes = b""
    lines: Sequence[bytes] = ()
    hangs: bool = False


Handle = Callable[[str, Mapping[str, Any], Mapping[str, str]], Reply]


@dataclass
class SmallServer:
    """Serves until cancelled; `handle` is told the path, the JSON body and the headers."""

    handle: Handle
    port: int = 0
    hung_up: trio.Event = field(default_factory=trio.Event)
    listener: trio.SocketListener | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        (self.listener,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = self.listener.socket.getsockname()[1]
        async with self.listener:
            task_status.started()
            await trio.serve_listeners(self._serve, [self.listener])

    async def _serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)

        async def send(event: Any) -> None:
            if (data := connection.send(event)) is not None:
                await stream.send_all(data)

        try:
            while True:
                request, body = await _request(connection, stream)
                if request is None:
                    return
                headers = {name.decode(): value.decode() for name, value in request.headers}
                found = json.loads(body) if body else {}
                reply = self.handle(request.target.decode(), found, headers)
                await self._reply(reply, stream, send)
                connection.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
            return
        finally:
            await trio.aclose_forcefully(stream)

    async def _reply(
        self, reply: Reply, stream: trio.SocketStream, send: Callable[[Any], Awaitable[None]]
    ) -> None:
        length = [] if reply.lines else [("content-length", str(len(reply.body)))]
        await send(h11.Response(status_code=reply.status, headers=length))
        await send(h11.Data(data=reply.body))
        for line in reply.lines:
            await send(h11.Data(data=line))
        if reply.hangs:
            await stream.receive_some(READ)  # until the other side hangs up
            self.hung_up.set()
        await send(h11.EndOfMessage())


async def _request(
    connection: h11.Connection, stream: trio.SocketStream
) -> tuple[h11.Request | None, bytes]:
    request, body = None, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(READ))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            return request, body


def event(**fields: object) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def listing(model: str, owner: str, **more: object) -> Reply:
    """What `/v1/models` says."""
    one = {"id": model, "object": "model", "owned_by": owner, **more}
    return Reply(body=json.dumps({"object": "list", "data": [one]}).encode())
