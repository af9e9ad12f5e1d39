"""Nobody passes without a key: the outermost layer that decides anything.

It stands before routing, so a route that is added tomorrow is closed until a key opens it; the
lists of exceptions by prefix that others keep have been walked around more than once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from r3mes.errors import Forbidden, RateLimited, Refused, Unauthenticated
from r3mes.node.audit import audit
from r3mes.node.http.asgi import denying, header, refuse
from r3mes.node.http.errors import as_r3mes_error
from r3mes.node.http.ports import ApiKey, Keyring
from r3mes.node.http.rates import Rates, Window, address_of, is_loopback

OPEN = frozenset({"/healthz", "/readyz", "/version"})
"""The only paths that need no key."""

MAX_HEADER = 256
"""Longest ``Authorization`` value that is looked at, in characters."""


class Auth:
    """Lets through who shows a key, and remembers which in ``scope["r3mes.key"]``.

    Wrong keys are counted by address and too many of them refused, but never a right one: on this
    machine every program comes from the same address.

    Args:
        rates: of keys and addresses.
        key_file: what callers from this machine, who may read it, are told of.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, rates: Rates, *, key_file: Path) -> None:
        self._app, self._keyring, self._rates, self._key_file = app, keyring, rates, key_file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._with_key(scope, receive, denying(send))
        else:
            await self._with_key(scope, receive, send)

    async def _with_key(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            key = await self._key_of(scope)
        except Exception as error:  # noqa: BLE001  whatever fails here must refuse
            await refuse(scope, send, as_r3mes_error(error))
            return
        window = self._rates.of_key(key)
        if window is not None:
            send = window.telling(send)
        if window is not None and window.exceeded:
            await refuse(scope, send, _too_many(window, f"the key {key.name!r}"))
        else:
            passed = {"r3mes.key": key, "r3mes.check_key": partial(self._again, bearer(scope))}
            await self._app({**scope, **passed}, receive, send)

    async def _again(self, secret: str, *, counted: bool) -> ApiKey:
        """The key as it is now, for connections that last: it may have been revoked.

        Raises:
            Unauthenticated: it was.
            RateLimited: ``counted`` as one more request there are too many.
        """
        key = await self._keyring.check(secret)
        window = self._rates.of_key(key) if counted else None
        if window is not None and window.exceeded:
            raise _too_many(window, f"the key {key.name!r}")
        return key

    async def _key_of(self, scope: Scope) -> ApiKey:
        address = address_of(scope)
        window = self._rates.of_address(address)
        if window is not None and window.exceeded:
            raise _too_many(window, f"the address {address}")
        try:
            return await self._keyring.check(bearer(scope))
        except Unauthenticated as error:
            raise self._failed(scope, address, error) from None

    def _failed(self, scope: Scope, address: str, error: Unauthenticated) -> Refused:
        """What the caller is told; noted for the operator as long as there are not too many."""
        do = self._advice() if is_loopback(scope) else None
        window = self._rates.of_failures(address)
        if window is not None and window.exceeded:
            what = f"{window.limit} requests from {address} came without a right key in a minute"
            return RateLimited(f"{what}; of this one: {error.detail}", do=do,
                               retry_after_s=window.reset_s)  # fmt: skip
        last = True if window is not None and window.remaining == 0 else None
        audit("auth_failed", address=address, why=error.detail, path=scope["path"],
              request=scope.get("r3mes.request_id"), limited_from_now=last)  # fmt: skip
        return Unauthenticated(error.detail, do=do)

    def _advice(self) -> str:
        return (
            f"send the key in {self._key_file} as 'Authorization: Bearer …'; `r3mes keys list` "
            "shows which there are, `r3mes keys create` makes one"
        )


def _too_many(window: Window, who: str) -> RateLimited:
    return RateLimited(
        f"{who} sent more than {window.limit} requests in a minute",
        do=f"try again in {ceil(window.reset_s)} s",
        retry_after_s=window.reset_s,
    )


@dataclass(frozen=True, slots=True)
class AdminKey:
    """What stands in for a key on the admin socket."""

    id: str | None = None
    name: str = "admin socket"
    scopes: frozenset[str] = frozenset("riwa")
    models: tuple[str, ...] | None = None
    rpm: int | None = None
    expires_ms: int | None = None


class Admin:
    """Lets everybody through with every scope: the socket's file permissions have authorised."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        passed = {"r3mes.key": AdminKey(), "r3mes.check_key": _admin_key}
        await self._app({**scope, **passed}, receive, send)


async def _admin_key(*, counted: bool) -> ApiKey:
    return AdminKey()


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
