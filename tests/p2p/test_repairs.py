"""Each repair of libp2p 0.8.1: the defect is there without it and gone with it.

Where a repair replaces a method, the stock one comes from a second copy of the library's module, so
both can be tried in one process.  A new release that changes what we replace fails here first.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.host import basic_host
from libp2p.io import trio as io_trio
from libp2p.network import auto_connector, swarm
from libp2p.stream_muxer.yamux import yamux
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from r3mes.errors import PeerDisconnected, PeerUnreachable, R3mesError
from r3mes.ids import PeerId
from r3mes.p2p.host import Host, HostLimits, open_host, opening
from r3mes.p2p.host.host import Host as BareHost
from r3mes.p2p.identity import NodeKey
from r3mes.p2p.repairs import layer, new_streams, receive_window, stream_handlers, window_waits
from r3mes.p2p.streams import FrameStream

pytestmark = pytest.mark.net

jitter = random.Random(1).random  # noqa: S311 when a cancel comes
SINK, ECHO = "/r3mes/sink/1.0.0", "/r3mes/echo/1.0.0"


def stock(module: ModuleType) -> ModuleType:
    """A copy of ``module`` as it was installed, unrepaired."""
    name = f"stock_{module.__name__.replace('.', '_')}"
    if name not in sys.modules:
        assert module.__file__ is not None
        spec = importlib.util.spec_from_file_location(
            f"{module.__package__}.{name}", module.__file__
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


REPLACED: list[tuple[ModuleType, str, str]] = [
    (yamux, "Yamux._write_frame", "16ff969cdd0d2b1b"),
    (yamux, "Yamux._measure_rtt_loop", "86222ce6e35836fd"),
    (yamux, "Yamux.handle_incoming", "ad15ff6943feac20"),
    (yamux, "Yamux._cleanup_on_error", "4fed61a999a34989"),
    (yamux, "Yamux.open_stream", "f3e0ef79ec21d0cb"),
    (yamux, "YamuxStream.read", "ca585f2199fd4e83"),
    (yamux, "YamuxStream.write", "d87f74dfb53ab194"),
    (basic_host, "BasicHost._swarm_stream_handler", "cec985884b1ba269"),
    (swarm, "Swarm.new_stream", "125812a9745b972b"),
    (swarm, "Swarm._handle_inbound_connection", "0800fdf9770ed8e6"),
    (swarm, "Swarm.upgrade_inbound_raw_conn", "e24c4285f494767a"),
    (swarm, "Swarm.upgrade_outbound_raw_conn", "54a8867681b2f4f0"),
    (auto_connector, "AutoConnector.maybe_connect", "018fac95eafc2413"),
    (io_trio, "TrioTCPStream.get_remote_address", "2238d30600e5c1e0"),
]


@pytest.mark.parametrize(("module", "name", "digest"), REPLACED)
def test_what_we_replace_is_what_we_read(module: ModuleType, name: str, digest: str) -> None:
    kind, method = name.split(".")
    source = inspect.getsource(getattr(getattr(stock(module), kind), method))
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == digest, f"{name} has changed"


def test_another_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "_applied", False)
    monkeypatch.setattr(layer, "version", lambda _: "0.9.0")
    with pytest.raises(R3mesError, match=r"libp2p 0\.9\.0"):
        layer.apply()


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType, str], None]:
    """Puts the stock method back for one test."""

    def put_back(module: ModuleType, name: str) -> None:
        kind, method = name.split(".")
        original = getattr(getattr(stock(module), kind), method)
        monkeypatch.setattr(getattr(module, kind), method, original)

    return put_back


async def echo(stream: FrameStream) -> None:
    while (frame := await stream.receive()) is not None:
        await stream.send(frame)
    await stream.finish()


async def sink(stream: FrameStream) -> None:
    while await stream.receive() is not None:
        pass


async def alive(a: Host, b: Host) -> bool:
    """Whether the connection that both had still carries a stream."""
    with trio.move_on_after(3):
        try:
            stream = await a.open_stream(b.peer_id, ECHO)
            await stream.send(b"ping")
            answer = await stream.receive()
            await stream.aclose()
        except R3mesError:
            return False
        return answer == b"ping"
    return False


async def cancel_writes(a: Host, b: Host, times: int) -> None:
    frame = b"x" * 300_000
    for _ in range(times):
        with trio.move_on_after(jitter() * 0.004):
            stream = await a.open_stream(b.peer_id, SINK)
            try:
                while True:
                    await stream.send(frame)
            finally:
                await stream.aclose()


async def try_cancelled_writes(pair: tuple[Host, Host], times: int) -> bool:
    a, b = pair
    b.serve(SINK, sink)
    b.serve(ECHO, echo)
    connections = since(a)
    try:
        await cancel_writes(a, b, times)
    except R3mesError:
        return False
    return await alive(a, b) and since(a) == connections


def since(host: Host) -> dict[PeerId, float]:
    """When each connection was made: another moment is another connection."""
    return {one.peer: one.since for one in host.peers()}


async def test_p1_cancelled_writes(pair: tuple[Host, Host]) -> None:
    with trio.fail_after(60):
        assert await try_cancelled_writes(pair, 300)


async def test_p1_is_needed(
    without: Callable[[ModuleType, str], None], pair: tuple[Host, Host]
) -> None:
    without(yamux, "Yamux._write_frame")
    with trio.fail_after(30):
        assert not await try_cancelled_writes(pair, 300)


async def test_p1_cancelled_reads(pair: tuple[Host, Host]) -> None:
    a, b = pair
    b.serve(ECHO, echo)

    async def pour(stream: FrameStream) -> None:
        try:
            while True:
                await stream.send(b"x" * 50_000)
        except PeerDisconnected:
            return

    b.serve(SINK, pour)
    with trio.fail_after(60):
        stream = await a.open_stream(b.peer_id, SINK)
        for _ in range(300):
            with trio.move_on_after(jitter() * 0.004):
                while await stream.receive():
                    pass
        await stream.aclose()
        assert await alive(a, b)


async def churn(host: Host, limits: HostLimits, times: int) -> int:
    """How many of ``times`` connections in a row could be made and used."""
    good = 0
    for _ in range(times):
        async with open_host(NodeKey(os.urandom(32)), listen=[], limits=limits) as guest:
            try:
                await guest.dial(host.addrs, timeout=2)
                good += int(await alive(guest, host))
            except R3mesError:
                continue
    return good


SMALL = HostLimits(connections=4, dials=4)


async def test_p2_the_slot_goes_back_with_the_connection() -> None:
    with trio.fail_after(60):
        async with open_host(NodeKey(os.urandom(32)), listen=["127.0.0.1:0"], limits=SMALL) as host:
            host.serve(ECHO, echo)
            assert await churn(host, SMALL, 12) == 12


async def test_p2_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "InboundGate", lambda *_given: None)
    with trio.fail_after(60):
        async with open_host(NodeKey(os.urandom(32)), listen=["127.0.0.1:0"], limits=SMALL) as host:
            host.serve(ECHO, echo)
            assert await churn(host, SMALL, 12) == SMALL.connections + SMALL.dials


def buffered(host: BareHost) -> int:
    """Bytes that a host keeps in streams that nobody reads."""
    total = 0
    for connections in host._swarm.connections.values():
        for connection in connections:
            muxed: Any = connection.muxed_conn
            total += sum(len(buffer) for buffer in muxed.stream_buffers.values())
    return total


async def overrun(pair: tuple[Host, Host], megabytes: int) -> int:
    """What stays in memory when a peer sends without regard to the window."""
    a, b = pair

    async def never_read(stream: FrameStream) -> None:
        await trio.sleep_forever()

    b.serve(SINK, never_read)
    stream: Any = await a.open_stream(b.peer_id, SINK)
    stream._stream._stream.muxed_stream.send_window = 1 << 40
    most = 0
    try:
        for _ in range(megabytes * 8):
            await stream.send(b"x" * (1 << 17))
            most = max(most, buffered(b))
    except PeerDisconnected:
        pass
    await trio.testing.wait_all_tasks_blocked(0.1)
    return max(most, buffered(b))


async def test_p3_a_window_overrun_ends_the_connection(pair: tuple[Host, Host]) -> None:
    a, b = pair
    with trio.fail_after(30):
        assert await overrun(pair, 20) < 2 << 20
        await b.wait_closed(a.peer_id)


async def test_p3_is_needed(pair: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    def as_stock(_: object, stream: yamux.YamuxStream, window: int) -> None:
        stream.__dict__["recv_window"] = max(window, 0)

    monkeypatch.setattr(receive_window._ReceiveWindow, "__set__", as_stock)
    with trio.fail_after(30):
        assert await overrun(pair, 20) > 15 << 20


async def cancelled_opens(pair: tuple[Host, Host], times: int) -> int:
    """Slots of the connection's 256 that are gone after ``times`` cancelled opens."""
    a, b = pair
    b.serve(ECHO, echo)
    (connection,) = next(iter(a._swarm.connections.values()))
    muxed: Any = connection.muxed_conn
    for _ in range(times):
        with trio.move_on_after(jitter() * 0.003):
            stream = await a.open_stream(b.peer_id, ECHO)
            await stream.aclose()
    assert await alive(a, b)
    await trio.testing.wait_all_tasks_blocked(0.2)
    return 256 - int(muxed.stream_backlog_semaphore.value)


async def test_p7_cancelled_opens(pair: tuple[Host, Host]) -> None:
    with trio.fail_after(60):
        assert await cancelled_opens(pair, 300) == 0


async def test_p7_is_needed(pair: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm.Swarm, "new_stream", new_streams._new_stream)
    with trio.fail_after(60):
        assert await cancelled_opens(pair, 300) > 0


async def read_after_reset(pair: tuple[Host, Host]) -> bytes | None:
    a, b = pair

    async def reset(stream: FrameStream) -> None:
        await stream.receive()
        await stream.aclose()

    b.serve(SINK, reset)
    stream = await a.open_stream(b.peer_id, SINK)
    await stream.send(b"go")
    return await stream.receive()


async def test_p9_a_reset_does_not_read_as_an_end(pair: tuple[Host, Host]) -> None:
    with trio.fail_after(10), pytest.raises(PeerDisconnected):
        await read_after_reset(pair)


async def test_p9_is_needed(
    pair: tuple[Host, Host], without: Callable[[ModuleType, str], None]
) -> None:
    without(yamux, "YamuxStream.read")
    with trio.fail_after(10):
        assert await read_after_reset(pair) is None


async def crash_a_handler() -> None:
    async with (
        open_host(NodeKey(os.urandom(32)), listen=["127.0.0.1:0"]) as a,
        open_host(NodeKey(os.urandom(32)), listen=["127.0.0.1:0"]) as b,
    ):
        await a.dial(b.addrs)

        async def crash(stream: FrameStream) -> None:
            raise RuntimeError("a handler fails")

        b.serve(SINK, crash)
        b.serve(ECHO, echo)
        for _ in range(3):
            with suppress(PeerDisconnected, PeerUnreachable):
                stream = await a.open_stream(b.peer_id, SINK)
                await stream.receive()
                await stream.aclose()
        assert await alive(a, b)


def test_p6_a_failing_handler_ends_its_stream_only() -> None:
    trio.run(crash_a_handler)


def test_p6_is_needed(without: Callable[[ModuleType, str], None]) -> None:
    without(basic_host, "BasicHost._swarm_stream_handler")
    with pytest.raises(BaseException) as caught:  # noqa: PT011 whatever it is, the process is over
        trio.run(crash_a_handler)
    assert "a handler fails" in repr([caught.value, caught.value.__cause__])


async def test_libp2p_dials_nobody_by_itself(pair: tuple[Host, Host]) -> None:
    a, b = pair
    dialled: list[object] = []
    a._swarm.dial_peer = dialled.append  # type: ignore[method-assign,assignment]
    a._swarm.peerstore.add_addrs(
        next(iter(a._swarm.connections)), [Multiaddr(b.addrs[0].split("/p2p/")[0])], 1000
    )
    await a.disconnect(b.peer_id)
    await a._swarm.auto_connector.maybe_connect()
    assert dialled == []


async def addresses_seen(listen: str) -> list[str]:
    """What a host that listens there sees of a guest on the same machine."""
    with trio.fail_after(20):
        async with open_host(NodeKey(os.urandom(32)), listen=[listen]) as host:
            async with open_host(NodeKey(os.urandom(32)), listen=["127.0.0.1:0"]) as guest:
                port = host.addrs[0].split("/")[4]
                at = "/ip4/127.0.0.1" if listen == "[::]:0" else "/ip6/::1"
                await guest.dial([f"{at}/tcp/{port}/p2p/{host.peer_id}"])
                while not host.peers():  # noqa: ASYNC110  the host notices a moment later
                    await trio.sleep(0.01)
                return [peer.address.rpartition("/tcp/")[0] for peer in host.peers()]


@pytest.mark.parametrize(
    ("listen", "seen"), [("[::1]:0", "/ip6/::1"), ("[::]:0", "/ip4/127.0.0.1")]
)
async def test_peers_of_an_ipv6_socket_have_addresses(listen: str, seen: str) -> None:
    assert await addresses_seen(listen) == [seen]


async def test_ipv6_addresses_are_needed(without: Callable[[ModuleType, str], None]) -> None:
    without(io_trio, "TrioTCPStream.get_remote_address")
    assert await addresses_seen("[::1]:0") == [""]


async def write_to_a_pausing_reader(pair: tuple[Host, Host], pause_s: float) -> int:
    """Bytes that arrive when the reader pauses with the window full."""
    a, b = pair
    arrived = 0
    read_all = trio.Event()

    async def pausing(stream: FrameStream) -> None:
        nonlocal arrived
        await trio.sleep(pause_s)
        while (frame := await stream.receive()) is not None:
            arrived += len(frame)
        read_all.set()

    b.serve(SINK, pausing)
    stream = await a.open_stream(b.peer_id, SINK)
    for _ in range(40):
        await stream.send(b"x" * 100_000)
    await stream.finish()
    await read_all.wait()
    return arrived


async def test_p10_a_writer_waits_for_a_reader_that_pauses(pair: tuple[Host, Host]) -> None:
    assert window_waits.WAIT_S > 30
    with trio.fail_after(20):
        assert await write_to_a_pausing_reader(pair, 1.0) == 4_000_000


async def test_p10_but_not_for_ever(
    pair: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_waits, "WAIT_S", 0.3)
    with trio.fail_after(20), pytest.raises(PeerDisconnected):
        await write_to_a_pausing_reader(pair, 60)


async def test_a_peer_cannot_open_streams_without_end(pair: tuple[Host, Host]) -> None:
    a, b = pair
    (connection,) = next(iter(a._swarm.connections.values()))
    (served,) = next(iter(b._swarm.connections.values()))
    attacker: Any = connection.muxed_conn
    victim: Any = served.muxed_conn
    attacker.stream_backlog_semaphore = trio.Semaphore(10_000)
    with trio.fail_after(20):
        for _ in range(400):
            await attacker.open_stream()  # and never says which protocol
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert len(victim.streams) <= stream_handlers.STREAMS_PER_CONNECTION
        assert len(victim.streams) > 100


async def test_a_host_serves_so_many_streams_and_no_more() -> None:
    limits = HostLimits(streams=5)
    with trio.fail_after(20):
        async with (
            open_host(NodeKey(os.urandom(32)), listen=["127.0.0.1:0"], limits=limits) as b,
            open_host(NodeKey(os.urandom(32)), listen=[]) as a,
        ):
            b.serve(ECHO, echo)
            await a.dial(b.addrs)
            streams = [await a.open_stream(b.peer_id, ECHO) for _ in range(5)]
            for stream in streams:
                await stream.send(b"x")
                assert await stream.receive() == b"x"
            assert not await alive(a, b)
            await streams[0].aclose()
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert await alive(a, b)
