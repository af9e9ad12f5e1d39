"""Nobody passes without a key: the outermost layer that decides anything.

It stands before routing, so a route that is added tomorrow is closed until a key opens it; the
lists of exceptions by prefix that others keep have been walked around more than once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from r3mes.errors import Forbidden, Unauthenticated
from r3mes.node.http.asgi import header, send_error
from r3mes.node.http.errors import as_r3mes_error
from r3mes.node.http.ports import ApiKey, Keyring

OPEN = frozenset({"/healthz", "/readyz", "/version"})
"""The only paths that need no key."""

MAX_HEADER = 256
"""Longest ``Authorization`` value that is looked at, in characters."""


class Auth:
    """Lets through who shows a key, and remembers which in ``scope["r3mes.key"]``."""

    def __init__(self, app: ASGIApp, keyring: Keyring) -> None:
        self._app, self._keyring = app, keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN):
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._with_key(scope, receive, send)

    async def _with_key(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            key = await self._keyring.check(bearer(scope))
        except Exception as error:  # noqa: BLE001  whatever fails here must refuse
            await send_error(send, as_r3mes_error(error))
        else:
            await self._app({**scope, "r3mes.key": key}, receive, send)


@dataclass(frozen=True, slots=True)
class AdminKey:
    """What stands in for a key on the admin socket."""

    id: str | None = None
    name: str = "admin socket"
    scopes: frozenset[str] = frozenset("riwa")
    models: tuple[str, ...] | None = None
    rpm: int | None = None


class Admin:
    """Lets everybody through with every scope: the socket's file permissions have authorised."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, "r3mes.key": AdminKey()}, receive, send)


def bearer(scope: Scope) -> str:
    """The secret in the ``Authorization`` header.

    Raises:
        Unauthenticated: there is none, or not in the form ``Bearer SECRET``.
    """
    value = header(scope, b"authorization")
    if value is None:
        raise Unauthenticated("the request came without an API key")
    scheme, _, secret = value.partition(" ")
    if scheme.lower() != "bearer" or not secret or len(value) > MAX_HEADER:
        raise Unauthenticated("the Authorization header is not of the form 'Bearer KEY'")
    return secret


def needs(scope: str) -> Callable[[Request], Awaitable[None]]:
    """A FastAPI dependency: the key must have ``scope`` ("r" reads, "i" asks models)."""

    async def check(request: Request) -> None:
        key: ApiKey = request.scope["r3mes.key"]
        if scope not in key.scopes:
            raise Forbidden(
                f"the key {key.name!r} lacks the scope {scope!r}",
                do="use a key that has it",
            )

    return check
