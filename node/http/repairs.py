"""Four defects of Hypercorn 0.18 on trio, mended by subclasses that take the place of its own.

Late sends: a connection that is being closed (``send_eof``) refuses what another task sends at that
moment with `trio.BusyResourceError`, which nobody catches: a ping that came in just then ended
the whole server.  What comes too late is dropped, as after a close.

Pings: the task that pings a WebSocket sleeps to the end of its interval after the connection has
ended, which held up the stop of the server for as long.

Messages that are too large: after it has said so (1009) it went on to keep what comes of them,
however much that is, and hardly looked for the close that answers it.

Goodbyes: the end of a connection was told to the application by whoever found it.  If that was the
application itself, in the middle of a send, and ten messages waited for it already, it waited for
itself: neither the connection nor what it held ever ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from hypercorn.events import Closed, Event
from hypercorn.protocol import h2, h11
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Request, StreamClosed
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio import run
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ASGIReceiveEvent, ASGISendEvent
from wsproto.events import CloseConnection, Ping


class Connection(TCPServer):
    """One connection, which a late send ends and not the server."""

    async def protocol_send(self, event: Event) -> None:
        try:
            await super().protocol_send(event)
        except trio.BusyResourceError:
            await self.protocol.handle(Closed())


class WebSocketStream(WSStream):
    """One WebSocket, whose pings end with it and whose memory has a bound."""

    def __init__(self, *args: Any) -> None:
        self._over, self._app_over = trio.Event(), trio.Event()
        self._too_large = False
        super().__init__(*args)

    @property
    def closed(self) -> bool:
        return self._over.is_set()

    @closed.setter
    def closed(self, over: bool) -> None:
        if over:
            self._over.set()

    async def handle(self, event: StreamEvent) -> None:
        if isinstance(event, StreamClosed) and self.app_put is not None and not self.closed:
            self.task_group.spawn(super().handle, event)
            await self._over.wait()
            return
        await super().handle(event)
        if isinstance(event, Request) and self.app_put is not None:
            self.app_put = partial(self._put, self.app_put)

    async def _put(
        self, put: Callable[[ASGIReceiveEvent], Awaitable[None]], event: ASGIReceiveEvent
    ) -> None:
        """Leave ``event`` for the application, unless that has ended."""

        async def give() -> None:
            await put(event)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give)
            await self._app_over.wait()
            nursery.cancel_scope.cancel()

    async def app_send(self, message: ASGISendEvent | None) -> None:
        if message is None:
            self._app_over.set()
        await super().app_send(message)

    async def _handle_events(self) -> None:
        if not self._too_large:
            await super()._handle_events()
            self._too_large = self.buffer.length > self.buffer.max_length
        if self._too_large:
            self.buffer.clear()
            for event in self.connection.events():
                if isinstance(event, CloseConnection):
                    await self.send(StreamClosed(stream_id=self.stream_id))

    async def _send_pings(self) -> None:
        while not self.closed:
            await self._send_wsproto_event(Ping())
            with trio.move_on_after(self.config.websocket_ping_interval or 0):
                await self._over.wait()


def apply() -> None:
    """Put the repairs in place."""
    run.TCPServer = Connection  # type: ignore[attr-defined]
    h11.WSStream = h2.WSStream = WebSocketStream  # type: ignore[attr-defined, assignment]
