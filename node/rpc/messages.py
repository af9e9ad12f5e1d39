"""What comes in and goes out: bounded before it is decoded, and as the specification says.

Source: JSON-RPC 2.0 specification (jsonrpc.org, 2013-01-04), sections 4 to 6.
"""

from __future__ import annotations

import re
from math import ceil
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from pjrpc.common import Request, Response
from pjrpc.server.exceptions import JsonRpcError

from r3mes.errors import CallMalformed, ParseFailed, R3mesError
from r3mes.node.http.errors import as_r3mes_error

MAX_BATCH = 100
"""Calls in one message; `rpc.discover` publishes it as ``x-max-batch``."""

MAX_DEPTH = 64
"""How deep arrays and objects may be nested in each other."""

STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))


class _Null:
    """An ``id`` that is there, and null: unlike pjrpc's None, which stands for a notification."""


NULL: Final = cast("Any", _Null())


def decode(body: bytes) -> object:
    """The JSON in ``body``.

    Raises:
        ParseFailed: it is none.
        CallMalformed: it is nested more than `MAX_DEPTH` deep.
    """
    if _too_deep(body):
        raise CallMalformed(f"nested more than {MAX_DEPTH} deep")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise ParseFailed from None


def encode(value: object) -> bytes:
    """``value`` as JSON."""
    return msgspec.json.encode(value, enc_hook=_plain)


def request_of(entry: object) -> Request:
    """One call.

    Raises:
        CallMalformed: it is not of the form that the specification gives.
    """
    if not isinstance(entry, dict):
        raise CallMalformed("a call is an object, or an array of them")
    if entry.get("jsonrpc") != "2.0":
        raise CallMalformed('"jsonrpc" must be "2.0"', param="jsonrpc")
    name, params = entry.get("method"), entry.get("params", {})
    if not isinstance(name, str):
        raise CallMalformed('"method" must be a string', param="method")
    if not isinstance(params, dict | list):
        raise CallMalformed('"params" must be an object or an array', param="params")
    return Request(name, params, _id_of(entry) if "id" in entry else None)


def failure(entry: object, error: BaseException) -> Response:
    """The answer to a call that is not well formed, with its id if that can be told."""
    try:
        known = _id_of(entry) if isinstance(entry, dict) and "id" in entry else NULL
    except CallMalformed:
        known = NULL
    return Response(id=known, error=rpc_error(error))


def rpc_error(error: BaseException) -> JsonRpcError:
    """``error`` as every caller sees it; unexpected ones by the id of their incident alone."""
    if isinstance(error, JsonRpcError):
        return error
    return JsonRpcError(**error_object(error))


def error_object(error: BaseException) -> dict[str, Any]:
    """``error`` as a notification tells it: as in an answer."""
    known = as_r3mes_error(error)
    return {"code": known.kind.rpc, "message": known.detail, "data": error_data(known)}


def error_data(error: R3mesError) -> dict[str, object]:
    """What stands under ``data`` of an error: for programs, and for people what to do."""
    data: dict[str, object] = {"id": error.kind.id, "code": error.kind.code, "do": error.do}
    if error.param is not None:
        data["param"] = error.param
    if error.retry_after_s is not None:
        data["retry_after_ms"] = ceil(error.retry_after_s * 1000)
    if error.incident is not None:
        data["incident"] = error.incident
    return data


def _id_of(entry: dict[str, object]) -> Any:
    known = entry["id"]
    if known is None:
        return NULL
    if isinstance(known, bool) or not isinstance(known, str | int | float):
        raise CallMalformed('"id" must be a string, a number or null', param="id")
    return known


def _too_deep(body: bytes) -> bool:
    """Whether brackets outside strings are nested too deep; a few passes, each in C."""
    brackets = STRING.sub(b"", body).translate(None, NO_BRACKET)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return b"[]" in brackets or b"{}" in brackets


def _plain(value: object) -> object:
    if value is NULL:
        return None
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
