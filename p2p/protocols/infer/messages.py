"""What the two sides say, and the bytes of it: arrays that start with the message's number.

Token ids travel as one byte string of 4 bytes each, little endian, so that a long prompt costs one
value and no list.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar, cast

from r3mes.config.schema import MODELS_CAP, OFFERED
from r3mes.errors import WireError
from r3mes.ids import ModelHash
from r3mes.p2p.wire import Value, pack, unpack

INFER: Final = "/r3mes/infer/1.2.0"
INFER_1_1: Final = "/r3mes/infer/1.1.0"
"""The same, but its jobs are of version 1, so nobody asks for what came later."""
INFER_1_0: Final = "/r3mes/infer/1.0.0"
"""As 1.1, but its `Request` has no trace."""

CREDIT_FRAMES = 32
"""Token frames that the server may send before the first `Credit`; most that may be owed."""
CHAIN_CAP, CODE_CAP, SAYING_CAP, CALLS_CAP = 64, 64, 1024, 16
"""Most bytes of a chain's id, an error's code and its message, and a form of calls, in UTF-8."""
SIGNED_CAP = 4096
"""Most bytes of a binding, delegation, result, signature or countersignature."""
EPOCH_BYTES, HASH_BYTES, ID_BYTES = 8, 32, 4
TRACE_CAP = 55
"""Most bytes of a trace: the length of a ``traceparent``."""
PROMPT_CAP = 1 << 17
"""Most token ids of a prompt."""
FRAME_TOKEN_CAP = 4096
"""Most token ids in one frame."""
FRAME_RECORDS_CAP, RECORD_CAP = 128, 6144
"""Most records of log-probabilities in one frame, and most bytes of one."""
FRAME_TEXT_CAP = 1 << 16
"""Most bytes of text in one frame."""
COUNT_CAP = 1 << 32
PRICE_CAP = 1 << 63


@dataclass(frozen=True, slots=True)
class ModelOffer:
    """A model that the server answers with; prices in uremes per million tokens."""

    name: str
    hash: ModelHash
    context: int
    price_prompt: int
    price_completion: int


@dataclass(frozen=True, slots=True)
class Hello:
    """Who serves here: its boot epoch (8 bytes), the binding of wallet and node key, models."""

    epoch: bytes
    binding: bytes
    models: tuple[ModelOffer, ...]
    chain: str


@dataclass(frozen=True, slots=True)
class Request:
    """A signed request, and the delegation if a session key signed it.

    Args:
        trace: of which trace this is a part, as W3C's ``traceparent``, unread here; empty if of
            none.  Nobody has signed it.
    """

    envelope: bytes
    delegation: bytes = b""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request will be answered; the prompt as the server's template made it.

    Args:
        calls: the form in which the model writes calls of tools, unread here; empty if the request
            has none.
    """

    prompt_ids: tuple[int, ...]
    calls: str = ""


@dataclass(frozen=True, slots=True)
class TurnedDown:
    """The request will not be answered; ``retry_after_ms`` is 0 if a repetition cannot help."""

    code: str
    message: str
    retry_after_ms: int = 0
    receipt: bytes = b""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Part of the answer; ``position`` counts the ids that came before.

    Args:
        logprobs: a record for each of ``ids``, unread here; empty if they were not asked for.
    """

    position: int
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The signed end of the answer."""

    result: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """The gateway's signature beside the server's."""

    countersignature: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer broke off on the server's side."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Credit:
    """The server may send so many token frames more."""

    frames: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Write no more; end with `Done` for what was written."""


Message: TypeAlias = (
    Hello | Request | Accepted | TurnedDown | Tokens | Done | Receipt | Failed | Credit | Cancel
)


def encode(message: Message) -> bytes:
    """The frame that says ``message``; its sender keeps within the caps."""
    return pack((_TAGS[type(message)], *_fields(message)))


def _fields(message: Message) -> tuple[Value, ...]:
    match message:
        case Hello(epoch, binding, models, chain):
            return epoch, binding, tuple(_offer_fields(offer) for offer in models), chain
        case Accepted(prompt_ids, calls):
            return (pack_ids(prompt_ids), calls) if calls else (pack_ids(prompt_ids),)
        case Tokens(position, ids, text, logprobs):
            told = (position, pack_ids(ids), text)
            return (*told, logprobs) if logprobs else told
        case Request(envelope, delegation, trace):
            return (envelope, delegation, trace) if trace else (envelope, delegation)
        case TurnedDown(code, saying, retry_after_ms, receipt):
            return code, saying, retry_after_ms, receipt
        case Done(result, signature):
            return result, signature
        case Receipt(countersignature):
            return (countersignature,)
        case Failed(code, saying):
            return code, saying
        case Credit(frames):
            return (frames,)
        case Cancel():
            return ()


def _offer_fields(offer: ModelOffer) -> Value:
    return offer.name, offer.hash, offer.context, offer.price_prompt, offer.price_completion


def decode(frame: bytes) -> Message:
    """The message in ``frame``.

    Raises:
        WireError: not a message of this protocol, or a field over its cap.
    """
    value = unpack(frame)
    if not isinstance(value, tuple) or not value:
        raise WireError("a frame is no message: not an array that starts with a number")
    tag, *fields = value
    reader = _Fields(fields)
    match tag:
        case 1:
            message: Message = _hello(reader)
        case 2:
            message = Request(reader.data(), reader.data(SIGNED_CAP), reader.text_if_any(TRACE_CAP))
        case 3:
            message = Accepted(reader.ids(PROMPT_CAP), reader.text_if_any(CALLS_CAP))
        case 4:
            message = TurnedDown(
                reader.text(CODE_CAP), reader.text(SAYING_CAP), reader.number(), reader.data()
            )
        case 5:
            message = _tokens(reader)
        case 6:
            message = Done(reader.data(SIGNED_CAP), reader.data(SIGNED_CAP))
        case 7:
            message = Receipt(reader.data(SIGNED_CAP))
        case 8:
            message = Failed(reader.text(CODE_CAP), reader.text(SAYING_CAP))
        case 9:
            message = Credit(reader.number())
        case 10:
            message = Cancel()
        case _:
            raise WireError(f"a message of the unknown kind {tag!r:.20}")
    reader.end()
    return message


_TAGS: Final[dict[type[Message], int]] = {
    Hello: 1,
    Request: 2,
    Accepted: 3,
    TurnedDown: 4,
    Tokens: 5,
    Done: 6,
    Receipt: 7,
    Failed: 8,
    Credit: 9,
    Cancel: 10,
}


def _hello(reader: _Fields) -> Hello:
    epoch, binding = reader.data(EPOCH_BYTES, exact=True), reader.data(SIGNED_CAP)
    models = tuple(_offer(_Fields(fields)) for fields in reader.arrays(MODELS_CAP))
    return Hello(epoch, binding, models, reader.text(CHAIN_CAP))


def _tokens(reader: _Fields) -> Tokens:
    position, ids = reader.number(), reader.ids(FRAME_TOKEN_CAP)
    text, records = reader.text(FRAME_TEXT_CAP), reader.records_if_any()
    if records and len(records) != len(ids):
        raise WireError(f"{len(records)} log-probabilities came with {len(ids)} tokens")
    return Tokens(position, ids, text, records)


def _offer(reader: _Fields) -> ModelOffer:
    offer = ModelOffer(
        reader.name(),
        ModelHash(reader.data(HASH_BYTES, exact=True)),
        reader.number(),
        reader.number(PRICE_CAP),
        reader.number(PRICE_CAP),
    )
    reader.end()
    return offer


T = TypeVar("T", int, bytes, str, tuple[Value, ...])


class _Fields:
    """The fields of one array in order, each checked as it is taken."""

    def __init__(self, fields: list[Value] | tuple[Value, ...]) -> None:
        self._fields = deque(fields)

    def _next(self, kind: type[T]) -> T:
        field = self._fields.popleft() if self._fields else None
        if type(field) is not kind:
            raise WireError(f"a message has {type(field).__name__} where {kind.__name__} is due")
        return field

    def number(self, below: int = COUNT_CAP) -> int:
        value = self._next(int)
        if value >= below:
            raise WireError(f"a message holds the number {value}, over {below - 1}")
        return value

    def data(self, most: int | None = None, *, exact: bool = False) -> bytes:
        value = self._next(bytes)
        if most is not None and (len(value) > most or (exact and len(value) != most)):
            raise WireError(f"a message holds {len(value)} bytes where {most} are the limit")
        return value

    def text(self, most: int) -> str:
        value = self._next(str)
        if len(value.encode()) > most:
            raise WireError(f"a message holds a text over {most} bytes")
        return value

    def text_if_any(self, most: int) -> str:
        """A last field that may be missing; empty then."""
        return self.text(most) if self._fields else ""

    def name(self) -> str:
        """Of a model; it ends up on terminals and in headers, so it is what a config may say."""
        value = self._next(str)
        if not re.fullmatch(OFFERED, value):
            raise WireError("a message holds a model's name with characters that no name has")
        return value

    def ids(self, most: int) -> tuple[int, ...]:
        return unpack_ids(self.data(), most)

    def arrays(self, most: int) -> list[tuple[Value, ...]]:
        items = self._next(tuple)
        if len(items) > most:
            raise WireError(f"a message lists {len(items)} things where {most} are the limit")
        return [_Fields((item,))._next(tuple) for item in items]

    def records_if_any(self) -> tuple[bytes, ...]:
        """A last field that may be missing; empty then."""
        if not self._fields:
            return ()
        records = self._next(tuple)
        if not 0 < len(records) <= FRAME_RECORDS_CAP:
            raise WireError(f"a message lists {len(records)} records, and not 1 to the limit")
        return tuple(_Fields((one,)).data(RECORD_CAP) for one in records)

    def end(self) -> None:
        if self._fields:
            raise WireError("a message has more fields than its kind")


def pack_ids(ids: tuple[int, ...]) -> bytes:
    """Token ids (0 to 2^32-1) as 4 bytes each, little endian."""
    return struct.pack(f"<{len(ids)}I", *ids)


def unpack_ids(data: bytes, most: int) -> tuple[int, ...]:
    """The token ids in ``data``.

    Raises:
        WireError: cut inside an id, or more than ``most``.
    """
    count, rest = divmod(len(data), ID_BYTES)
    if rest or count > most:
        raise WireError(f"token ids in {len(data)} bytes: cut, or more than {most}")
    return cast(tuple[int, ...], struct.unpack(f"<{count}I", data))
