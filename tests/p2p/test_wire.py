"""Frames and messages: golden bytes, round trips, hostile bytes."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from r3mes.config.schema import NAME
from r3mes.errors import WireError
from r3mes.ids import ModelHash
from r3mes.p2p.protocols.infer import (
    Accepted,
    Cancel,
    Credit,
    Done,
    Failed,
    Hello,
    Message,
    ModelOffer,
    Receipt,
    Request,
    Tokens,
    TurnedDown,
    decode,
    encode,
)
from r3mes.p2p.wire import FRAME_CAP, VALUE_CAP, pack, unpack

GOLDEN = Path(__file__).parent / "vectors" / "infer_frames.json"
DOCS = Path(__file__).parents[2] / "docs" / "wire.md"

EXAMPLES: dict[str, Message] = {
    "hello": Hello(
        bytes.fromhex("0123456789abcdef"),
        b"binding",
        (ModelOffer("tiny", ModelHash(bytes(range(32))), 1024, 150, 600),),
        "r3mes-dev-1",
    ),
    "request": Request(b"signed envelope", b""),
    "traced request": Request(
        b"signed envelope", b"", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    ),
    "accepted": Accepted((1, 258, 65536)),
    "turned down": TurnedDown("overloaded", "8 requests wait", 2500, b""),
    "tokens": Tokens(3, (17, 4096), "Hello, wörld"),
    "accepted with a form of calls": Accepted((1,), "hermes"),
    "tokens with log-probabilities": Tokens(3, (17, 4096), "Hello", (b"record", b"another")),
    "done": Done(b"result", b"signature"),
    "receipt": Receipt(b"countersignature"),
    "failed": Failed("engine_crashed", "the worker died"),
    "credit": Credit(16),
    "cancel": Cancel(),
}

ids = st.lists(st.integers(0, 2**32 - 1), max_size=50).map(tuple)
signed = st.binary(max_size=300)
word = st.text(max_size=30)
offers = st.builds(
    ModelOffer,
    st.from_regex(NAME, fullmatch=True),
    st.binary(min_size=32, max_size=32).map(ModelHash),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
)
epochs = st.binary(min_size=8, max_size=8)
messages = st.one_of(
    st.builds(Hello, epochs, signed, st.lists(offers, max_size=5).map(tuple), st.just("chain")),
    st.builds(Request, st.binary(max_size=3000), signed, st.text(max_size=13)),
    st.builds(Accepted, ids, st.sampled_from(["", "hermes"])),
    st.builds(TurnedDown, st.just("code"), word, st.integers(0, 2**32 - 1), signed),
    st.builds(Tokens, st.integers(0, 2**32 - 1), ids, word),
    st.builds(Done, signed, signed),
    st.builds(Receipt, signed),
    st.builds(Failed, st.just("code"), word),
    st.builds(Credit, st.integers(0, 2**32 - 1)),
    st.just(Cancel()),
)


def test_golden_bytes() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert {name: encode(message).hex() for name, message in EXAMPLES.items()} == golden
    for name, frame in golden.items():
        assert decode(bytes.fromhex(frame)) == EXAMPLES[name]


def test_the_documentation_shows_the_golden_bytes() -> None:
    text = DOCS.read_text()
    for name, frame in json.loads(GOLDEN.read_text()).items():
        assert frame in text, name


@given(messages)
def test_messages_come_back_as_they_were(message: Message) -> None:
    assert decode(encode(message)) == message


@given(messages, st.data())
def test_a_changed_byte_is_a_message_or_a_wire_error(message: Message, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(WireError):
        decode(bytes(frame))


@given(messages, st.integers(0, 5000))
def test_a_cut_frame_is_a_wire_error(message: Message, at: int) -> None:
    frame = encode(message)
    with pytest.raises(WireError):
        decode(frame[: at % len(frame)])


@given(st.binary(max_size=400))
@example(b"")
@example(b"\xc1")
@example(b"\x91" * 400)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x91\xc7\x00\x01")
def test_any_bytes_are_a_message_or_a_wire_error(frame: bytes) -> None:
    with suppress(WireError):
        decode(frame)


@pytest.mark.parametrize(
    "value",
    [None, True, -1, 1.0, {}, {1: 2}, [None], [[-1]], [5, 0.5], [1, {}], msgpack.ExtType(1, b"")],
)
def test_values_of_other_kinds(value: object) -> None:
    with pytest.raises(WireError):
        unpack(msgpack.packb(value))


@pytest.mark.parametrize(
    "frame",
    [
        b"\x01" + b"\x01",  # two values
        pack((1, 2)) + b"\x00",
        b"\xdc\xff\xff" + b"\x00" * 65535,
        b"\x90" * 1_000_000,
        b"\xdd" + (FRAME_CAP - 5).to_bytes(4, "big") + b"\x90" * (FRAME_CAP - 5),
        b"\x91" * FRAME_CAP,
        b"\xdb\x00\x0f\x00\x00" + b"a" * 0xF0000,  # a text over its cap
        b"\x00" * (FRAME_CAP + 1),
    ],
)
def test_bombs_cost_little(frame: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(WireError):
        unpack(frame)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * FRAME_CAP


def test_as_many_values_as_may_be() -> None:
    assert unpack(pack(tuple(range(VALUE_CAP - 1)))) == tuple(range(VALUE_CAP - 1))
    with pytest.raises(WireError, match="more than"):
        unpack(pack(tuple(range(VALUE_CAP))))


@pytest.mark.parametrize(
    "value",
    [
        (),
        ("1",),
        (0,),
        (11,),
        (10, 0),  # a field too many
        (2, b"envelope"),  # one too few
        (2, "envelope", b""),  # text for bytes
        (2, b"", b"x" * 4097),
        (2, b"", b"", "0" * 56),
        (2, b"", b"", b"trace"),
        (2, b"", b"", "trace", 0),
        (3, b"\0\0\0"),  # cut inside an id
        (3, b"\0" * 4 * ((1 << 17) + 1)),
        (4, "c" * 65, "", 0, b""),
        (4, "c", "", 1 << 32, b""),
        (5, 0, b"\0" * 4 * 4097, ""),
        (5, 0, b"", "x" * 65537),
        (1, b"short", b"", (), ""),
        (1, b"\0" * 8, b"", ((),), ""),
        (1, b"\0" * 8, b"", ((b"name", b"h" * 32, 1, 1, 1),), ""),
        (1, b"\0" * 8, b"", (("name", b"h" * 31, 1, 1, 1),), ""),
        (1, b"\0" * 8, b"", (("name", b"h" * 32, 1, 1, 1 << 63),), ""),
        (1, b"\0" * 8, b"", tuple(("n", b"h" * 32, 1, 1, 1) for _ in range(33)), ""),
    ],
)
def test_messages_over_their_caps(value: object) -> None:
    with pytest.raises(WireError):
        decode(msgpack.packb(value, use_bin_type=True))


@pytest.mark.parametrize("name", ["", "\x1b[2Jtiny", "tiny\n", "-tiny", "ti ny", "t" * 129])
def test_a_model_has_a_name_that_may_go_to_a_terminal(name: str) -> None:
    offer = ModelOffer(name, ModelHash(bytes(32)), 64, 1, 2)
    with pytest.raises(WireError, match="name"):
        decode(encode(Hello(bytes(8), b"", (offer,), "chain")))
