"""Shorthand for the ASGI middleware here: types, header look-up, an answer in one go."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Scope, Send

from r3mes.errors import R3mesError
from r3mes.node.http.errors import error_body, error_headers


def header(scope: Scope, name: bytes) -> str | None:
    """The header called ``name`` (lower case); None when it is missing.

    A header that comes twice counts as one with both values, so that it matches nothing.
    """
    values = [value for key, value in scope["headers"] if key == name]
    return b", ".join(values).decode("latin-1") if values else None


async def send_error(send: Send, error: R3mesError) -> None:
    """Answer with ``error``."""
    headers = {"content-type": "application/json", **error_headers(error)}
    await send_whole(send, error.kind.http, headers, error_body(error))


async def send_whole(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Answer in one go."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
