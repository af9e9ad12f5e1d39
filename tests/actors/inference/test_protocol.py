"""The pipe to the worker: what is written is read, and garbage is refused."""

from __future__ import annotations

import struct
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3mes.actors.inference import protocol
from r3mes.actors.inference.protocol import (
    AdapterFailed,
    AdapterLoaded,
    AdapterPart,
    Cancel,
    Command,
    Ended,
    Load,
    LoadAdapter,
    Loaded,
    LoadFailed,
    Ping,
    Pong,
    Report,
    Start,
    Unframer,
    UnloadAdapter,
    Wrote,
    decode_command,
    decode_report,
    frame,
    pack_ids,
    unpack_ids,
)
from r3mes.errors import WireError

COMMANDS: list[Command] = [
    Load("/model", "torch", "cpu", "auto", 0, 1, 2),
    Start(1, pack_ids([1, 2]), b"", 0.5, 3, 0.9, 2**63 - 1, 7, b"", 5),
    Cancel(1),
    Ping(9),
    LoadAdapter(5, b"{}", 2**33),
    AdapterPart(5, b"data"),
    UnloadAdapter(5),
]
REPORTS: list[Report] = [
    Loaded(b"h", "Llama", 9, "bf16", "cpu", 64, 9, "class", 1, "{}", "", (("bos", "<s>"),), (1, 2)),
    LoadFailed("model_invalid", "why", "do"),
    Wrote(1, 0, pack_ids([5])),
    Ended(1, "stop"),
    Pong(9, 0, 1, 2**40),
    AdapterLoaded(5, b"h", "exact", 2**33),
    AdapterFailed(5, "model_invalid", "why", "do"),
]


@given(st.lists(st.integers(0, 400), max_size=30))
def test_messages_survive_however_the_pipe_cuts_them(cuts: list[int]) -> None:
    stream = b"".join(frame(command) for command in COMMANDS)
    unframer = Unframer()
    bodies = [
        body
        for start, end in pairwise([0, *sorted(cuts), len(stream)])
        for body in unframer.feed(stream[start:end])
    ]
    assert [decode_command(body) for body in bodies] == COMMANDS


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: type(report).__name__)
def test_reports_survive(report: Report) -> None:
    assert decode_report(frame(report)[4:]) == report


@given(st.binary(max_size=300))
def test_hostile_bytes_raise_one_error(data: bytes) -> None:
    for decode in (decode_command, decode_report):
        with suppress(WireError):
            decode(data)


@pytest.mark.parametrize(
    "body", [b"\x92\x05\xa1x", b"\x93\x05\x01\x01", b"\x91\x05", b"\x92\x63\x01", b"\x92\x07\x01"]
)
def test_wrong_types_and_numbers_of_fields(body: bytes) -> None:
    with pytest.raises(WireError):
        decode_command(body)


def test_a_command_is_not_a_report() -> None:
    with pytest.raises(WireError):
        decode_report(frame(Ping(1))[4:])


def test_the_cap_holds_before_anything_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WireError):
        list(Unframer().feed(struct.pack(">I", protocol.FRAME_CAP + 1)))
    monkeypatch.setattr(protocol, "FRAME_CAP", 10)
    large: Command = Load("/a/long/path", "torch", "cpu", "auto", 0, 1, 0)
    with pytest.raises(WireError):
        frame(large)


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_ids_survive(ids: list[int]) -> None:
    assert unpack_ids(pack_ids(ids)) == tuple(ids)


def test_ids_come_in_fours() -> None:
    with pytest.raises(WireError):
        unpack_ids(b"12345")
