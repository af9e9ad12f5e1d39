"""Frames over bytes, and two ends in memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from r3mes.errors import PeerDisconnected, TooLarge, WireError
from r3mes.ids import PeerId
from r3mes.p2p.streams import FramedStream, close_gently, frame_bytes, staple
from r3mes.p2p.wire import FRAME_CAP

A, B = PeerId("a"), PeerId("b")


class Bytes:
    """A byte stream that reads what it is given, in given pieces, and remembers the rest."""

    peer = A
    protocol = "/test/1.0.0"

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)
        self.written = b""
        self.closed: list[bool] = []

    async def read(self, most: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._pieces.pop(0) if self._pieces else b""

    async def write(self, data: bytes) -> None:
        self.written += data

    async def close_write(self) -> None:
        self.written += b"|"

    async def close(self, *, whole: bool) -> None:
        self.closed.append(whole)


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(1, 30), min_size=1))
def test_frames_arrive_however_they_are_cut(frames: list[bytes], cuts: list[int]) -> None:
    data = b"".join(frame_bytes(frame) for frame in frames)
    pieces: list[bytes] = []
    while data:
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(data[:size])
        data = data[size:]

    async def read() -> list[bytes | None]:
        stream = FramedStream(Bytes(*pieces))
        return [await stream.receive() for _ in range(len(frames) + 2)]

    assert trio.run(read) == [*frames, None, None]


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0\x05", b"\0\0\0\x05abcd"])
async def test_an_end_inside_a_frame_is_a_loss(data: bytes) -> None:
    stream = FramedStream(Bytes(frame_bytes(b"whole"), data))
    assert await stream.receive() == b"whole"
    with pytest.raises(PeerDisconnected, match="inside a frame"):
        await stream.receive()


async def test_a_frame_over_the_cap_is_refused_by_its_length_alone() -> None:
    source = Bytes((FRAME_CAP + 1).to_bytes(4, "big"), b"never read")
    with pytest.raises(WireError, match=str(FRAME_CAP + 1)):
        await FramedStream(source).receive()
    assert source._pieces == [b"never read"]


async def test_a_frame_over_the_cap_is_not_sent() -> None:
    sink = Bytes()
    with pytest.raises(TooLarge):
        await FramedStream(sink).send(b"x" * (FRAME_CAP + 1))
    assert sink.written == b""


class Slow(Bytes):
    """Takes a write in two halves, with a pause in between."""

    async def write(self, data: bytes) -> None:
        for half in (data[: len(data) // 2], data[len(data) // 2 :]):
            self.written += half
            await trio.sleep(1)


async def test_frames_sent_at_once_stay_whole(autojump_clock: trio.abc.Clock) -> None:
    sink = Slow()
    stream = FramedStream(sink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send, b"a" * 10)
        nursery.start_soon(stream.send, b"b" * 10)
    whole = FramedStream(Bytes(sink.written))
    assert {await whole.receive(), await whole.receive()} == {b"a" * 10, b"b" * 10}


async def test_a_cancelled_receive_goes_on_where_it_was() -> None:
    stream = FramedStream(Bytes(b"\0\0\0\x03a", b"bc"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.receive()
    assert await stream.receive() == b"abc"


async def test_only_a_stream_that_ended_both_ways_is_closed_whole() -> None:
    for whole in (True, False):
        source = Bytes()
        stream = FramedStream(source)
        await stream.finish()
        await stream.finish()
        if whole:
            assert await stream.receive() is None
        await stream.aclose()
        await stream.aclose()
        assert source.closed == [whole]
        assert source.written == b"|"
        with pytest.raises(PeerDisconnected):
            await stream.send(b"late")
        with pytest.raises(PeerDisconnected):
            await stream.receive()


async def test_stapled_ends() -> None:
    a, b = staple(A, B, "/test/1.0.0")
    assert (a.peer, b.peer) == (B, A)
    await a.send(b"one")
    await a.finish()
    assert await b.receive() == b"one"
    assert await b.receive() is None
    await b.send(b"two")
    assert await a.receive() == b"two"
    await b.finish()
    assert await a.receive() is None
    await a.aclose()
    await b.aclose()


async def test_a_stapled_end_that_is_given_up_is_a_loss_for_the_other() -> None:
    a, b = staple(A, B, "/test/1.0.0")
    await a.aclose()
    with pytest.raises(PeerDisconnected):
        await b.receive()
    with pytest.raises(PeerDisconnected):
        await b.send(b"late")


async def test_a_stapled_end_that_is_not_read_holds_its_sender(
    autojump_clock: trio.abc.Clock,
) -> None:
    a, _b = staple(A, B, "/test/1.0.0")
    with trio.move_on_after(1) as waiting:
        for _ in range(1000):
            await a.send(b"x")
    assert waiting.cancelled_caught
    with pytest.raises(TooLarge):
        await a.send(b"x" * (FRAME_CAP + 1))


async def test_closing_gently_waits_for_the_other_side_but_not_for_ever(
    autojump_clock: trio.abc.Clock,
) -> None:
    a, b = staple(A, B, "/test/1.0.0")
    await b.send(b"still on its way")
    started = trio.current_time()
    await close_gently(a)
    assert trio.current_time() - started == 2


def test_only_the_host_needs_libp2p() -> None:
    code = """
import sys
import r3mes.p2p.addresses, r3mes.p2p.discovery, r3mes.p2p.identity, r3mes.p2p.limits
import r3mes.p2p.ports, r3mes.p2p.protocols.infer, r3mes.p2p.streams, r3mes.p2p.wire
assert not {"libp2p", "zeroconf", "multiaddr"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
