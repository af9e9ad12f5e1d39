"""The one way in which signed things are written: a positional msgpack array, read strictly.

A value has exactly one encoding.  Arrays and no maps: there is no order of keys to agree on and
nothing can come twice.  What is read is written again and must give the same bytes, so a number
in a longer form than needed, or anything behind the end, is refused before its meaning counts.

Source: ``docs/wire.md``; the caps follow what unpacking a hostile megabyte costs.
"""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]
from msgpack.exceptions import UnpackException  # type: ignore[import-untyped]

from r3mes.errors import EnvelopeRefused, Refused

_pack = msgpack.Packer().pack  # one for all: making one costs as much as packing a header


def pack(fields: tuple[object, ...]) -> bytes:
    """Write an array of int, float, str, bytes and arrays of these."""
    return _pack(fields)  # type: ignore[no-any-return]


def unpack(
    data: bytes,
    types: tuple[type, ...],
    what: str,
    *,
    max_bytes: int = 64,
    max_text: int = 64,
    error: type[Refused] = EnvelopeRefused,
) -> tuple[Any, ...]:
    """Read an array of exactly ``types`` (a bool is no int, an int no float).

    Args:
        data: untrusted bytes; the caller has capped their number.
        types: one exact type per field; ``tuple`` for an inner array, for the caller to check.
        what: what this is, for the error.
        max_bytes: cap of one byte string.
        max_text: cap of one text, in bytes.
        error: raised for everything that is wrong.
    """
    try:
        fields = msgpack.unpackb(
            data,
            use_list=False,
            max_array_len=32,
            max_map_len=0,
            max_ext_len=0,
            max_str_len=max_text,
            max_bin_len=max_bytes,
        )
    except (ValueError, UnpackException):  # not msgpack, over a cap, or bytes behind the end
        raise error(f"the {what} is not well-formed") from None
    if type(fields) is not tuple or tuple(map(type, fields)) != types:
        raise error(f"the {what} has fields of a wrong number or type")
    if _pack(fields) != data:
        raise error(f"the {what} is not in its one canonical form")
    return fields


def framed(domain: bytes, *parts: bytes) -> bytes:
    """What is signed: the purpose, a zero byte, then each part behind its length (u32, big-endian).

    The purpose keeps a signature made for one thing from ever counting for another.
    """
    whole = domain + b"\x00"
    for part in parts:
        whole += len(part).to_bytes(4, "big") + part
    return whole
