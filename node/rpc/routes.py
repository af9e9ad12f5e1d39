"""JSON-RPC over HTTP: one message in a POST, its answer in the response; or over a WebSocket.

A call that is refused is still a 200, as JSON-RPC over HTTP does it: the status speaks of the
message, each answer of its call.  Only notifications have no answer: 204.  A message that is not
read at all has a status of its own and, for clients of JSON-RPC, an error without id.
"""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, WebSocket
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from r3mes.node.http.asgi import send_whole, while_present
from r3mes.node.http.auth import needs
from r3mes.node.http.errors import REFUSALS, refusals
from r3mes.node.http.ports import ApiKey
from r3mes.node.rpc.context import CheckKey, Context
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.sessions import Sessions

rpc_routes = APIRouter()

ERROR = {
    "type": "object",
    "required": ["code", "message", "data"],
    "properties": {
        "code": {"type": "integer"},
        "message": {"type": "string"},
        "data": {"type": "object", "description": "See docs/rpc.md."},
    },
}
UNREAD = {
    "type": "object",
    "required": ["jsonrpc", "id", "error"],
    "properties": {"jsonrpc": {"const": "2.0"}, "id": {"type": "null"}, "error": ERROR},
}
ANSWERS = {204: {"description": "no answer"}, **refusals(UNREAD)}
MESSAGE = {"requestBody": {"required": True, "content": {"application/json": {"schema": {}}}}}


class Answered(Response):
    """Has the message answered in the caller's presence: who hangs up cancels what is running."""

    def __init__(self, rpc: Dispatcher, body: bytes, context: Context) -> None:
        super().__init__()
        self._rpc, self._message, self._context = rpc, body, context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_present(receive, send, self._answer)

    async def _answer(self, send: Send) -> None:
        answer = await self._rpc.answer(self._message, self._context)
        if answer is None:
            await send_whole(send, 204, {}, b"")
        else:
            await send_whole(send, 200, {"content-type": "application/json"}, answer)


@rpc_routes.post("/rpc", openapi_extra=MESSAGE, responses=ANSWERS)
async def call(request: Request) -> Response:
    """One JSON-RPC 2.0 call or a batch; the methods are in docs/rpc.md."""
    rpc: Dispatcher = request.app.state.rpc
    scope = request.scope
    context = Context(scope["r3mes.key"], check_key=_beyond_first(scope["r3mes.check_key"]))
    return Answered(rpc, await request.body(), context)


@rpc_routes.websocket("/rpc")
async def connect(websocket: WebSocket) -> None:
    """The same over a WebSocket, with notifications of events."""
    sessions: Sessions = websocket.app.state.sessions
    scope = websocket.scope
    await sessions.serve(websocket, scope["r3mes.key"], scope["r3mes.check_key"])


@rpc_routes.get("/rpc/openrpc.json", dependencies=[Depends(needs("r"))], responses=REFUSALS)
async def openrpc(request: Request) -> JSONResponse:
    """What `rpc.discover` answers."""
    rpc: Dispatcher = request.app.state.rpc
    return JSONResponse(rpc.document)


def _beyond_first(check_key: CheckKey) -> CheckKey:
    """The request was counted already, which is enough for the first call in it."""
    counted_calls = 0

    async def check(*, counted: bool) -> ApiKey:
        nonlocal counted_calls
        counted_calls += counted
        return await check_key(counted=counted_calls > 1)

    return check
