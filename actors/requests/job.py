"""The body of method ``infer``: what to answer and how to sample.

Layout: ``[1, messages, emitted, temperature, top_p, top_k, seed, stop]`` in canonical msgpack.
Every number has a bound, checked on the value that will be used.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from r3mes.actors.requests.canonical import pack, unpack
from r3mes.actors.requests.header import BODY_CAP
from r3mes.errors import BadRequest

MAX_EMITTED = 128 * 1024
MAX_TEMPERATURE = 2.0
MAX_TOP_K = 1 << 20
MAX_STOPS = 4
STOP_CAP = 64
_TYPES = (int, bytes, bytes, float, float, int, int, tuple)


@dataclass(frozen=True, slots=True)
class InferJob:
    """One question, checked when it is made, here or from a peer's bytes.

    Args:
        messages: the conversation as JSON text in UTF-8; its depth is for whoever parses it.
        emitted: ids of tokens that were written already, by a node that went away.
        temperature: 0 to 2; 0 takes the likeliest token.
        top_p: over 0, at most 1.
        top_k: 0 means all.
        seed: 0 to 2^63 - 1; sampling is a function of it.
        stop: at most 4 texts of 1 to 64 bytes.

    Raises:
        BadRequest: which field is out of range.
    """

    messages: bytes
    emitted: tuple[int, ...] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(0 < len(self.messages) <= BODY_CAP, "messages", f"1 to {BODY_CAP} bytes")
        _require(_is_utf8(self.messages), "messages", "UTF-8")
        _require(len(self.emitted) <= MAX_EMITTED, "emitted", f"at most {MAX_EMITTED} ids")
        _require(all(0 <= one < 1 << 32 for one in self.emitted), "emitted", "ids of 32 bits")
        _require(0.0 <= self.temperature <= MAX_TEMPERATURE, "temperature", "0 to 2")
        _require(0.0 < self.top_p <= 1.0, "top_p", "over 0 and at most 1")
        _require(0 <= self.top_k <= MAX_TOP_K, "top_k", f"0 to {MAX_TOP_K}")
        _require(0 <= self.seed < 1 << 63, "seed", "0 to 2^63 - 1")
        _require(len(self.stop) <= MAX_STOPS, "stop", f"at most {MAX_STOPS} texts")
        for text in self.stop:
            _require(_is_stop(text), "stop", f"texts of 1 to {STOP_CAP} bytes")

    def encode(self) -> bytes:
        emitted = struct.pack(f"<{len(self.emitted)}I", *self.emitted)
        numbers = float(self.temperature), float(self.top_p), self.top_k, self.seed
        return pack((1, self.messages, emitted, *numbers, self.stop))

    @classmethod
    def decode(cls, body: bytes) -> InferJob:
        """Read a job from a peer.

        Raises:
            BadRequest: not canonical, or a field is out of range.
        """
        if len(body) > BODY_CAP:
            raise BadRequest(f"the job has {len(body)} bytes, the cap is {BODY_CAP}")
        version, messages, emitted, *rest = unpack(
            body, _TYPES, "job", max_bytes=BODY_CAP, max_text=STOP_CAP, error=BadRequest
        )
        if version != 1 or len(emitted) % 4:
            raise BadRequest("the job is of another version, or its token ids are cut off")
        return cls(messages, struct.unpack(f"<{len(emitted) // 4}I", emitted), *rest)


def _require(holds: bool, param: str, allowed: str) -> None:
    if not holds:
        raise BadRequest(f"{param} is out of range: {allowed}", param=param)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_stop(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text.encode(errors="replace")) <= STOP_CAP
