"""Two real hosts on loopback."""

from __future__ import annotations

import pytest
import trio

from r3mes.errors import ConfigError, PeerDisconnected, PeerUnreachable
from r3mes.p2p.host import Host
from r3mes.p2p.streams import FrameStream
from r3mes.p2p.wire import FRAME_CAP

pytestmark = pytest.mark.net

ECHO = "/r3mes/echo/1.0.0"


async def echo(stream: FrameStream) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(frame[::-1])
    await stream.finish()


async def test_frames_go_both_ways_and_end(pair: tuple[Host, Host]) -> None:
    a, b = pair
    b.serve(ECHO, echo)
    with trio.fail_after(10):
        stream = await a.open_stream(b.peer_id, ECHO)
        assert stream.peer == b.peer_id
        for frame in (b"abc", b"", bytes(range(256)) * (FRAME_CAP // 256)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send, frame)
                assert await stream.receive() == frame[::-1]
        await stream.finish()
        assert await stream.receive() is None
        await stream.aclose()


async def test_a_reset_is_no_end(pair: tuple[Host, Host]) -> None:
    a, b = pair

    async def half(stream: FrameStream) -> None:
        await stream.send(b"one")
        await stream.receive()
        raise RuntimeError("dies")

    b.serve(ECHO, half)
    with trio.fail_after(10):
        stream = await a.open_stream(b.peer_id, ECHO)
        assert await stream.receive() == b"one"
        await stream.send(b"go on")
        with pytest.raises(PeerDisconnected):
            await stream.receive()
        await stream.aclose()
        again = await a.open_stream(b.peer_id, ECHO)
        assert await again.receive() == b"one"
        await again.aclose()


async def test_peers_know_each_other_until_they_part(pair: tuple[Host, Host]) -> None:
    a, b = pair
    with trio.fail_after(10):
        (from_a,), (from_b,) = a.peers(), b.peers()
        assert (from_a.peer, from_a.inbound) == (b.peer_id, False)
        assert (from_b.peer, from_b.inbound) == (a.peer_id, True)
        assert from_a.address in b.addrs[0]
        await a.disconnect(b.peer_id)
        await a.wait_closed(b.peer_id)
        await b.wait_closed(a.peer_id)
        assert a.peers() == b.peers() == []
        with pytest.raises(PeerUnreachable):
            await a.open_stream(b.peer_id, ECHO)


async def test_a_dead_first_address_costs_little(pair: tuple[Host, Host]) -> None:
    a, b = pair
    dead = f"/ip4/127.0.0.1/tcp/1/p2p/{b.peer_id}"
    with trio.fail_after(10):
        await a.disconnect(b.peer_id)
        with pytest.raises(PeerUnreachable, match="tcp/1"):
            await a.dial([dead])
        assert await a.dial([dead, *b.addrs]) == b.peer_id


async def test_a_dial_names_one_peer(pair: tuple[Host, Host]) -> None:
    a, b = pair
    for addrs in ([], [*a.addrs, *b.addrs], ["/ip4/127.0.0.1/tcp/1"]):
        with pytest.raises(ConfigError):
            await a.dial(addrs)
    with pytest.raises(PeerUnreachable, match="itself"):
        await a.dial(a.addrs)
