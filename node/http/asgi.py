"""Shorthand for what speaks ASGI here: header look-up, an answer in one go, a caller who leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

import trio
from starlette.types import Message, Receive, Scope, Send

from r3mes.errors import R3mesError
from r3mes.node.http.errors import error_body, error_headers
from r3mes.node.rpc.messages import encode, failure

RPC = "/rpc"
EMPTY: Mapping[str, str] = MappingProxyType({})


def header(scope: Scope, name: bytes) -> str | None:
    """The header called ``name`` (lower case); None when it is missing.

    A header that comes twice counts as one with both values, so that it matches nothing.
    """
    values = [value for key, value in scope["headers"] if key == name]
    return b", ".join(values).decode("latin-1") if values else None


async def send_error(send: Send, error: R3mesError, more: Mapping[str, str] = EMPTY) -> None:
    """Answer with ``error``, and ``more`` headers than it has by itself."""
    headers = {"content-type": "application/json", **error_headers(error), **more}
    await send_whole(send, error.kind.http, headers, error_body(error))


async def refuse(
    scope: Scope, send: Send, error: R3mesError, more: Mapping[str, str] = EMPTY
) -> None:
    """The same, in the form that is spoken where the request went."""
    headers = {"content-type": "application/json", **error_headers(error), **more}
    await send_whole(send, error.kind.http, headers, refusal(scope, error))


def refusal(scope: Scope, error: R3mesError) -> bytes:
    """The body of `refuse`: at ``/rpc`` an answer of JSON-RPC, elsewhere OpenAI's object."""
    if scope["path"] == RPC:
        return encode(failure(None, error).to_json())
    return error_body(error)


async def send_whole(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Answer in one go."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def denying(send: Send) -> Send:
    """``send`` for who asks for a WebSocket: an HTTP response takes the place of the handshake.

    Source: ASGI, "Websocket Denial Response".
    """

    async def sending(message: Message) -> None:
        kind = message["type"]
        if kind.startswith("http.response."):
            message = {**message, "type": f"websocket.{kind}"}
        await send(message)

    return sending


async def while_present(
    receive: Receive, send: Send, answer: Callable[[Send], Awaitable[None]]
) -> None:
    """Run ``answer``, which sends the whole response; cancel it when the caller goes away."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, receive, nursery.cancel_scope)
        await answer(_ending_whole(send))
        nursery.cancel_scope.cancel()


def _ending_whole(send: Send) -> Send:
    """``send``, with the last message out of reach of a cancel.

    Sending it ends the request inside Hypercorn, which then tells `_watch` that the caller is gone
    and makes the connection ready for the next request; cut off there, the connection would neither
    time out nor close when the server stops.
    """

    async def sending(message: Message) -> None:
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        with trio.CancelScope(shield=last):
            await send(message)

    return sending


async def _watch(receive: Receive, scope: trio.CancelScope) -> None:
    """Cancel ``scope`` when the caller is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
