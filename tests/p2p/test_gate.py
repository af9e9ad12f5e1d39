"""The door: handshakes that stall, floods, and what is left behind."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
import trio.testing

from r3mes.errors import PeerUnreachable
from r3mes.p2p.host import Host, HostLimits, open_host
from r3mes.p2p.identity import NodeKey
from r3mes.p2p.repairs import inbound_gate

pytestmark = pytest.mark.net


@asynccontextmanager
async def host_with(limits: HostLimits) -> AsyncIterator[Host]:
    async with open_host(NodeKey(os.urandom(32)), listen=["127.0.0.1:0"], limits=limits) as host:
        yield host


async def call_at(host: Host, source: str = "127.0.0.1") -> trio.SocketStream:
    _, _, ip, _, port, *_ = host.addrs[0].split("/")
    return await trio.open_tcp_stream(ip, int(port), local_address=source)


async def ended(stream: trio.SocketStream) -> bool:
    """Read until the other side closes."""
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass
    return True


def held(host: Host) -> int:
    """Connections that the resource manager still counts."""
    manager = host._swarm._resource_manager
    assert manager is not None
    return manager._current_connections


async def test_a_silent_socket_is_closed_at_its_deadline_and_leaves_nothing() -> None:
    with trio.fail_after(20):
        async with host_with(HostLimits(handshake_s=0.2)) as host:
            for _ in range(5):
                sockets = [await call_at(host) for _ in range(10)]
                assert all([await ended(socket) for socket in sockets])
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert held(host) == 0
            async with host_with(HostLimits()) as guest:
                await guest.dial(host.addrs)


async def test_the_oldest_half_open_socket_makes_room() -> None:
    with trio.fail_after(20):
        async with host_with(HostLimits(pending=3, pending_per_prefix=3)) as host:
            sockets = [await call_at(host) for _ in range(6)]
            assert all([await ended(socket) for socket in sockets[:3]])
            async with host_with(HostLimits()) as guest:
                await guest.dial(host.addrs)


async def test_a_crowded_address_does_not_crowd_out_another() -> None:
    limits = HostLimits(connections_per_prefix=2)
    with trio.fail_after(20):
        async with host_with(limits) as host, host_with(HostLimits()) as honest:
            async with host_with(HostLimits()) as first, host_with(HostLimits()) as second:
                await first.dial(host.addrs)
                await second.dial(host.addrs)
                with pytest.raises(PeerUnreachable):
                    await honest.dial(host.addrs, timeout=1)
                async with await call_at(host, "127.0.0.2") as stranger:
                    assert (await stranger.receive_some()).startswith(b"\x13/multistream")
            await host.wait_closed(first.peer_id)
            await host.wait_closed(second.peer_id)
            await honest.dial(host.addrs)


async def test_those_who_come_at_once_are_counted_too() -> None:
    limits = HostLimits(connections_per_prefix=2)
    with trio.fail_after(20):
        async with AsyncExitStack() as stack:
            host = await stack.enter_async_context(host_with(limits))
            guests = [await stack.enter_async_context(host_with(HostLimits())) for _ in range(5)]
            async with trio.open_nursery() as nursery:
                for guest in guests:
                    nursery.start_soon(guest.dial, host.addrs)
            while sum(bool(guest.peers()) for guest in guests) > 2:  # noqa: ASYNC110
                await trio.sleep(0.02)
            assert len(host.peers()) == 2


async def test_a_dial_that_is_given_up_leaves_nothing() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await ended(stream)

    with trio.fail_after(30):
        async with host_with(HostLimits()) as host, trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, silent, [listener])
            port = listener.socket.getsockname()[1]
            peer = NodeKey(os.urandom(32)).peer_id
            for _ in range(20):
                with pytest.raises(PeerUnreachable, match=r"within 0\.05 s"):
                    await host.dial([f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer}"], timeout=0.05)
            assert held(host) == 0
            nursery.cancel_scope.cancel()


async def test_the_peer_that_answers_must_be_the_one_that_was_meant() -> None:
    with trio.fail_after(10):
        async with host_with(HostLimits()) as host, host_with(HostLimits()) as other:
            someone = NodeKey(os.urandom(32)).peer_id
            with pytest.raises(PeerUnreachable):
                await host.dial([other.addrs[0].replace(other.peer_id, someone)])


async def test_plaintext_is_not_spoken() -> None:
    with trio.fail_after(10):
        async with host_with(HostLimits()) as host:
            async with await call_at(host) as stream:
                for word in (b"/multistream/1.0.0\n", b"/plaintext/2.0.0\n"):
                    await stream.send_all(bytes([len(word)]) + word)
                answer = b""
                while not answer.endswith(b"na\n"):
                    part = await stream.receive_some()
                    assert part, "closed before it said no"
                    answer += part
                assert b"plaintext" not in answer


class Socket:
    """A socket whose other end is at ``address``."""

    def __init__(self, address: tuple[str, int] | None) -> None:
        self._address = address

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._address


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        (("192.0.2.7", 1), "192.0.2.7/32"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1), "fe80::/64"),
        (None, "?"),
    ],
)
def test_neighbours(address: tuple[str, int] | None, prefix: str) -> None:
    assert inbound_gate._prefix(Socket(address)) == prefix  # type: ignore[arg-type]


async def test_p13_libp2p_allows_as_many_as_we_do() -> None:
    limits = HostLimits(connections=700, dials=300)
    async with host_with(limits) as host:
        manager = host._swarm._resource_manager
        assert manager is not None
        assert manager.limits.max_connections >= 1000  # stock: 1000, and 256 each way
        established = manager.connection_limits
        assert established is not None
        assert established.max_established_inbound == 700
        assert established.max_established_outbound == 300
        assert host._swarm.connection_config.max_connections == 1000
