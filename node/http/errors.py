"""Errors on the wire, in the form that OpenAI's clients understand.

Their clients choose the exception class by status, repeat 408, 409, 429 and 5xx twice by
themselves unless ``x-should-retry`` says otherwise, and honour ``retry-after-ms``.

Source: openai-python 3.54 ``_base_client.py`` (_should_retry, _parse_retry_after_header).
"""

from __future__ import annotations

import logging
import secrets
from math import ceil
from typing import Any

import msgspec

from r3mes.errors import R3mesError

logger = logging.getLogger(__name__)

RETRYABLE = {408, 429, 502, 503, 504}
"""Statuses after which the same request may succeed."""


_TEXT = {"type": "string"}
_SHOWN = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code", "param"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "code": {"type": "string", "description": "One of docs/errors.md."},
                "param": {"type": ["string", "null"]},
            },
        }
    },
}


def refusals(schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Errors as the OpenAPI document shows them, in bodies of this form."""
    return {
        status: {"description": what, "content": {"application/json": {"schema": schema}}}
        for status, what in (
            ("4XX", "The request was refused"),
            ("5XX", "It could not be answered"),
        )
    }


REFUSALS = refusals(_SHOWN)


def error_object(error: R3mesError) -> dict[str, object]:
    """What stands under ``error`` in a body and in an event of a stream."""
    return {
        "message": str(error),
        "type": _type(error.kind.http),
        "code": error.kind.code,
        "param": error.param,
    }


def error_body(error: R3mesError) -> bytes:
    """``{"error": …}`` as JSON."""
    return msgspec.json.encode({"error": error_object(error)})


def error_headers(error: R3mesError) -> dict[str, str]:
    """Headers that tell a client whether and when to repeat the request."""
    headers = {"x-should-retry": "true" if error.kind.http in RETRYABLE else "false"}
    if error.retry_after_s is not None:
        headers["retry-after-ms"] = str(ceil(error.retry_after_s * 1000))
        headers["retry-after"] = str(ceil(error.retry_after_s))
    if error.kind.http == 401:
        headers["www-authenticate"] = "Bearer"
    return headers


def as_r3mes_error(error: BaseException) -> R3mesError:
    """``error`` itself when it is ours; else an internal error whose incident id is in the log."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, R3mesError):
        return error
    incident = secrets.token_hex(6)
    logger.error("incident %s: a request failed unexpectedly", incident, exc_info=error)
    unforeseen = R3mesError(f"something failed that should not (incident {incident})")
    unforeseen.incident = incident
    return unforeseen


def _type(status: int) -> str:
    match status:
        case 402:
            return "insufficient_quota"
        case 403:
            return "permission_error"
        case 429:
            return "rate_limit_error"
        case _:
            return "invalid_request_error" if status < 500 else "server_error"
