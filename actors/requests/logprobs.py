"""How probable a token was, and which others were likelier: what goes along with it on the wire.

A token's record is a canonical array of entries ``[logprob, token]``: first the token that was
written, then as many as were asked for, the likeliest first.  The token is told as its bytes, for
the gateway may not have the model's tokenizer; it may be a part of a character.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from r3mes.actors.requests.canonical import pack, unpack
from r3mes.errors import Refused, WireError

MAX_LIKELIEST = 20
"""Most other tokens that can be asked for."""
TOKEN_CAP = 256
"""Most bytes of one token that are told."""
LEAST = -9999.0
"""Stands for what is impossible, as in OpenAI's API: JSON has no infinity."""


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token as it stood in its place.

    Args:
        token: its bytes.
        value: natural logarithm of its probability, 0 at most.
    """

    token: bytes
    value: float


def encode_record(entries: Sequence[Logprob]) -> bytes:
    """The record of one token: its own entry, then the likeliest."""
    return pack(tuple((float(entry.value), entry.token[:TOKEN_CAP]) for entry in entries))


def decode_record(record: bytes, entries: int) -> tuple[Logprob, ...]:
    """What a peer's record says.

    Args:
        record: untrusted.
        entries: how many were asked for, the token's own among them.

    Raises:
        WireError: not ``entries`` entries, or none that a token can have.
    """
    if len(record) > entries * (TOKEN_CAP + 16) + 8:
        raise WireError(f"the log-probabilities of a token have {len(record)} bytes")
    try:
        fields = unpack(record, (tuple,) * entries, "log-probabilities", max_bytes=TOKEN_CAP)
    except Refused as error:
        raise WireError(error.detail) from None
    return tuple(map(_entry, fields))


def _entry(fields: tuple[object, ...]) -> Logprob:
    match fields:
        case (float(value), bytes(token)) if LEAST <= value <= 0:
            return Logprob(token, value)
    raise WireError("a log-probability is no number up to 0 with its token")
