"""JSON-RPC over a WebSocket: each text is a message, and notifications come in between.

A caller who does not read is found by the sends that take too long: it gets the close code 1013 as
soon as it reads again.  What is not read by then fills the kernel's buffers and no memory of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from secrets import token_hex

import trio
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from r3mes.actors.kernel.failure import real_error
from r3mes.errors import NotReady, Overloaded, R3mesError
from r3mes.node.http.asgi import refusal
from r3mes.node.http.errors import as_r3mes_error, error_headers
from r3mes.node.http.ports import ApiKey
from r3mes.node.rpc.context import SLOW_S, CheckKey, Connection, Context, Follow, TooSlow
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.messages import encode

KEY_CHECK_S = 20.0
"""How often the key is looked at while the caller is silent; a revoked one ends the connection."""
MAX_SESSIONS = 64
MAX_SUBSCRIPTIONS = 16
PARALLEL = 8
"""Messages of one connection that are answered side by side."""

GOING_AWAY, POLICY, TRY_AGAIN_LATER = 1001, 1008, 1013


class Sessions:
    """All connections; closed when the node stops.

    Args:
        stopping: set when it does.
    """

    def __init__(self, rpc: Dispatcher, stopping: trio.Event) -> None:
        self._rpc, self._stopping = rpc, stopping
        self._open = 0

    async def serve(self, websocket: WebSocket, key: ApiKey, check_key: CheckKey) -> None:
        """Serve one connection until either side ends it.

        Args:
            websocket: not yet accepted.
            key: with which the caller came.
            check_key: by which it is let in, again and again.
        """
        if self._stopping.is_set():
            await _deny(websocket, NotReady("the node is stopping"))
            return
        if self._open >= MAX_SESSIONS:
            await _deny(websocket, Overloaded(f"{MAX_SESSIONS} WebSockets are open, the limit",
                                              do="close some, or try again later"))  # fmt: skip
            return
        self._open += 1
        try:
            await websocket.accept()
            await _Session(websocket, self._rpc, key, check_key).run(self._stopping)
        finally:
            self._open -= 1


class _Session:
    """One connection."""

    def __init__(
        self, websocket: WebSocket, rpc: Dispatcher, key: ApiKey, check_key: CheckKey
    ) -> None:
        self._websocket, self._rpc, self._check_key = websocket, rpc, check_key
        self._key = key
        self._sending = trio.Lock()
        self._places = trio.CapacityLimiter(PARALLEL)
        self._subscriptions: dict[str, trio.CancelScope] = {}
        self._ending: dict[str, trio.Event] = {}
        """Of those subscriptions that end by themselves."""

    async def run(self, stopping: trio.Event) -> None:
        code, reason = 1000, ""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._watch_key)
                self._nursery.start_soon(self._end_with_node, stopping)
                await self._read()
                self._nursery.cancel_scope.cancel()
        except Exception as group:  # noqa: BLE001  crash boundary: the caller is told by a code
            code, reason = _close_code(real_error(group))
        with trio.move_on_after(SLOW_S):
            await self._close(code, reason)

    def start(self, follow: Follow, begin: trio.Event, *, to_its_end: bool) -> str:
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Overloaded(
                f"a connection has {MAX_SUBSCRIPTIONS} subscriptions at most",
                do="end one, or subscribe to several topics at once",
            )
        subscription = token_hex(8)
        scope = self._subscriptions[subscription] = trio.CancelScope()
        if to_its_end:
            self._ending[subscription] = trio.Event()
        self._nursery.start_soon(self._follow, subscription, scope, follow, begin)
        return subscription

    def stop(self, subscription: str) -> bool:
        scope = self._subscriptions.pop(subscription, None)
        if scope is not None:
            scope.cancel()
        return scope is not None

    async def _follow(
        self, subscription: str, scope: trio.CancelScope, follow: Follow, begin: trio.Event
    ) -> None:
        try:
            with scope:
                await begin.wait()
                await follow(subscription, self._notify)
        finally:
            self._subscriptions.pop(subscription, None)
            if (ended := self._ending.pop(subscription, None)) is not None:
                ended.set()

    async def _read(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect
            text = message.get("text")
            body = text.encode(errors="surrogatepass") if text is not None else message["bytes"]
            await self._places.acquire_on_behalf_of(body_owner := object())
            self._nursery.start_soon(self._answer, body, body_owner)

    async def _answer(self, body: bytes, owner: object) -> None:
        answered = trio.Event()
        try:
            context = Context(self._key, _Message(self, answered), self._check_key)
            answer = await self._rpc.answer(body, context)
            if answer is not None:
                await self._send(answer)
        finally:
            answered.set()
            self._places.release_on_behalf_of(owner)

    async def _notify(self, method: str, params: Mapping[str, object]) -> None:
        await self._send(encode({"jsonrpc": "2.0", "method": method, "params": params}))

    async def _send(self, message: bytes) -> None:
        async with self._sending:
            began = trio.current_time()
            await self._websocket.send_text(message.decode())
            if trio.current_time() - began > SLOW_S:
                raise TooSlow

    async def _watch_key(self) -> None:
        while True:
            await trio.sleep(KEY_CHECK_S)
            try:
                await self._check_key(counted=False)
            except R3mesError as error:
                if error.kind.http == 401:
                    raise

    async def _end_with_node(self, stopping: trio.Event) -> None:
        await stopping.wait()
        for ended in list(self._ending.values()):  # no new ones begin in a node that stops
            await ended.wait()
        raise _NodeStops

    async def _close(self, code: int, reason: str) -> None:
        if self._websocket.client_state is WebSocketState.CONNECTED:
            async with self._sending:
                await self._websocket.close(code, reason)


async def _deny(websocket: WebSocket, error: R3mesError) -> None:
    headers = {"content-type": "application/json", **error_headers(error)}
    body = refusal(websocket.scope, error)
    await websocket.send_denial_response(Response(body, error.kind.http, headers))


@dataclass(frozen=True, slots=True)
class _Message(Connection):
    """The connection as the calls of one message see it: what they start waits for the answer."""

    session: _Session
    answered: trio.Event

    def start(self, follow: Follow, *, to_its_end: bool = False) -> str:
        return self.session.start(follow, self.answered, to_its_end=to_its_end)

    def stop(self, subscription: str) -> bool:
        return self.session.stop(subscription)


class _NodeStops(Exception):
    """The connection ends because the node does."""


def _close_code(error: BaseException | None) -> tuple[int, str]:
    match error:
        case TooSlow():
            return TRY_AGAIN_LATER, "you read too slowly; connect again and go on with your cursor"
        case _NodeStops():
            return GOING_AWAY, "the node is stopping"
        case None | WebSocketDisconnect():
            return 1000, ""
        case R3mesError() if error.kind.http == 401:
            return POLICY, "the key is not valid any more"
        case _:
            known = as_r3mes_error(error)
            return 1011, known.detail[:120]
