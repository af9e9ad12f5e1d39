"""What a request must satisfy besides its key: an id, our Host, no foreign Origin, a size.

Host and Origin defend browsers' users against DNS rebinding: a page of elsewhere whose name was
made to resolve to this machine still sends its own name in both.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from r3mes.errors import BadRequest, Forbidden, RequestTimeout, TooLarge
from r3mes.node.http.asgi import header, refuse

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
BODY_SECONDS = 20.0
"""How long a client may take to send its body."""


class RequestId:
    """Takes the caller's ``x-request-id`` if it is harmless, makes one otherwise, and echoes it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = header(scope, b"x-request-id") or ""
        request_id = given if REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await self._app({**scope, "r3mes.request_id": request_id}, receive, send_with_id)


class Allowed:
    """Who may ask besides loopback and this node's own page; may change while the node runs.

    Args:
        hosts: names, without port, under which the API may be asked.
        origins: origins, such as ``https://chat.example``, that may call it from a browser.
    """

    def __init__(self, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self.allow(hosts, origins)

    def allow(self, hosts: Collection[str], origins: Collection[str]) -> None:
        """Allow these from now on, and no others."""
        self.hosts = LOOPBACK | {host.lower() for host in hosts}
        self.origins = frozenset(origins)

    def is_ours(self, host: str | None) -> bool:
        """Whether a ``Host`` header names this node."""
        try:
            return urlsplit(f"//{host or ''}").hostname in self.hosts
        except ValueError:
            return False


class Origins:
    """Refuses a ``Host`` that is not ours and an ``Origin`` from elsewhere."""

    def __init__(self, app: ASGIApp, allowed: Allowed | None = None) -> None:
        self._app, self._allowed = app, allowed or Allowed()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and (error := self._fault(scope)) is not None:
            await refuse(scope, send, error)
            return
        await self._app(scope, receive, send)

    def _fault(self, scope: Scope) -> Forbidden | None:
        host, origin = header(scope, b"host"), header(scope, b"origin")
        if not self._allowed.is_ours(host):
            return Forbidden(
                f"the request is addressed to the host {host!r}, which is not this node",
                do="use 127.0.0.1, or add the name to api.allowed_hosts",
            )
        if (
            origin is not None
            and origin not in self._allowed.origins
            and origin != f"http://{host}"
        ):
            return Forbidden(
                f"the request comes from a web page of {origin!r}",
                do="add it to api.allowed_origins if you trust that page",
            )
        return None


class BodyLimit:
    """Reads the body, at most ``limit`` bytes in `BODY_SECONDS`, before the application runs.

    So neither a large nor a slow body costs more than a buffer, with or without content-length.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
        except (BadRequest, TooLarge, RequestTimeout) as error:
            # The rest of the body is not read, so the connection ends: a client that was not told
            # would send its next request on it. HTTP/2 has streams for that, and forbids the word.
            last = {} if scope["http_version"] == "2" else {"connection": "close"}
            await refuse(scope, send, error, last)
            return
        if body is not None:
            await self._app(scope, _replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None when the client went away before it was complete."""
        declared = header(scope, b"content-length") or "0"
        if not declared.isdigit():
            raise BadRequest("content-length is not a number")
        if int(declared) > self._limit:
            raise self._too_large()
        body = bytearray()
        with trio.move_on_after(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if len(body) > self._limit:
                    raise self._too_large()
                if not message.get("more_body", False):
                    return bytes(body)
        raise RequestTimeout(f"the body was not complete within {BODY_SECONDS:g} s")

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._limit} bytes")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hand out ``body`` once, then whatever comes after it: the disconnect."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return left.pop() if left else await receive()

    return replayed
