"""Lets the pages of `api.allowed_origins` call the API from a browser, and no other page.

A browser asks for leave first, in a request that carries no key, so this layer stands before keys
are looked at.  It opens nothing: it tells a browser which pages may read an answer, while keys,
`Host` and `Origin` go on deciding who gets one.

Source: Fetch Standard, "CORS protocol"; left out: credentials, as keys travel in a header that the
page sets, not in a cookie that the browser adds by itself.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from r3mes.node.http.asgi import header, send_whole
from r3mes.node.http.guards import Allowed

METHODS = "GET, POST"
TOLD = "*"
"""Headers of an answer that the page may read: all that we send."""
REMEMBERED_S = 600
"""How long a browser need not ask again."""


class Cors:
    """Answers preflights of allowed origins, and names the origin in the answers to the rest."""

    def __init__(self, app: ASGIApp, allowed: Allowed) -> None:
        self._app, self._allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin = header(scope, b"origin")
        known = origin in self._allowed.origins and self._allowed.is_ours(header(scope, b"host"))
        named = [(b"vary", b"Origin")]
        if known and origin is not None:
            named.append((b"access-control-allow-origin", origin.encode("latin-1")))
            named.append((b"access-control-expose-headers", TOLD.encode()))

        async def naming(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *named]}
            await send(message)

        if known and _is_preflight(scope):
            await send_whole(naming, 200, _leave(scope), b"")
        else:
            await self._app(scope, receive, naming)


def _is_preflight(scope: Scope) -> bool:
    asked = header(scope, b"access-control-request-method")
    return scope["method"] == "OPTIONS" and asked is not None


def _leave(scope: Scope) -> dict[str, str]:
    """A trusted page may send whatever headers it asks for: its key, and those of its library."""
    leave = {"access-control-allow-methods": METHODS, "access-control-max-age": str(REMEMBERED_S)}
    if wished := header(scope, b"access-control-request-headers"):
        leave["access-control-allow-headers"] = wished
    return leave
