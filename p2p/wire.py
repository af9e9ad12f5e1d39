"""Frames between nodes: msgpack of a small, bounded kind.

A value is an unsigned integer, a byte string, a text or an array of values; nothing else exists on
our wire.  Whole-frame decoders let a peer turn 1 MiB into 70 MB of empty objects, so arrays are
opened one by one here and every frame has a budget of values.

Source: msgpack specification, 2013 edition; left out: nil, booleans, negative and floating numbers,
maps and extensions.
"""

from __future__ import annotations

from typing import TypeAlias, cast

import msgpack  # type: ignore[import-untyped]

from r3mes.errors import WireError

FRAME_CAP = 1 << 20
"""Most bytes of one frame, without its length prefix."""
TEXT_CAP = 1 << 18
"""Most bytes of one text."""
VALUE_CAP = 512
"""Most values in one frame, arrays counted."""
DEPTH_CAP = 4
"""Most arrays inside each other."""

Value: TypeAlias = "int | bytes | str | tuple[Value, ...]"


def pack(value: Value) -> bytes:
    """The frame that says ``value``; the caller keeps within the caps."""
    return cast(bytes, msgpack.packb(value, use_bin_type=True))


def unpack(frame: bytes) -> Value:
    """What ``frame`` says.

    Raises:
        WireError: not one whole value of our kind, or over a cap.
    """
    if len(frame) > FRAME_CAP:
        raise WireError(f"a frame of {len(frame)} bytes is over the cap of {FRAME_CAP}")
    reader = _Reader(frame)
    try:
        value = reader.value(0)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError(f"a frame is not msgpack of our kind ({type(error).__name__})") from error
    if reader.at() != len(frame):
        raise WireError(f"{len(frame) - reader.at()} bytes follow the value of a frame")
    return value


class _Reader:
    def __init__(self, frame: bytes) -> None:
        self._frame, self._left = frame, VALUE_CAP
        self._unpacker = msgpack.Unpacker(
            max_buffer_size=FRAME_CAP,
            read_size=4096,
            max_array_len=0,
            max_map_len=0,
            max_ext_len=0,
            max_str_len=TEXT_CAP,
        )
        self._unpacker.feed(frame)

    def at(self) -> int:
        return int(self._unpacker.tell())

    def value(self, depth: int) -> Value:
        self._left -= 1
        if self._left < 0:
            raise WireError(f"a frame holds more than {VALUE_CAP} values")
        if _opens_array(self._frame, self.at()):
            if depth == DEPTH_CAP:
                raise WireError(f"a frame holds arrays more than {DEPTH_CAP} deep")
            length = self._unpacker.read_array_header()
            if length > self._left:
                raise WireError(f"a frame holds more than {VALUE_CAP} values")
            return tuple(self.value(depth + 1) for _ in range(length))
        return self._scalar()

    def _scalar(self) -> int | bytes | str:
        scalar = self._unpacker.unpack()
        if type(scalar) not in (int, bytes, str) or (type(scalar) is int and scalar < 0):
            raise WireError("a frame holds a value that is no number, bytes, text or array")
        return cast("int | bytes | str", scalar)


def _opens_array(frame: bytes, at: int) -> bool:
    return at < len(frame) and (0x90 <= frame[at] <= 0x9F or frame[at] in (0xDC, 0xDD))
