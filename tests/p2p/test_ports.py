"""Listening: one port, one node; and an error when it fails."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext

import pytest
import trio

from r3mes.errors import ConfigError, PortInUse
from r3mes.p2p.addresses import listen_address, parse_peer_address
from r3mes.p2p.host import open_host, opening
from r3mes.p2p.identity import NodeKey
from r3mes.p2p.ports import hold_port

pytestmark = pytest.mark.net

PEER = NodeKey(bytes(range(32))).peer_id


def a_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_two_nodes_do_not_share_a_port() -> None:
    port = a_port()
    with trio.fail_after(10):
        async with open_host(NodeKey(os.urandom(32)), listen=[f"127.0.0.1:{port}"]) as host:
            assert host.addrs == [f"/ip4/127.0.0.1/tcp/{port}/p2p/{host.peer_id}"]
            second = open_host(NodeKey(os.urandom(32)), listen=[f"127.0.0.1:{port}"])
            with pytest.raises(PortInUse, match=str(port)):
                await second.__aenter__()
        async with open_host(NodeKey(os.urandom(32)), listen=[f"127.0.0.1:{port}"]):
            pass  # free again at once


async def test_a_port_of_another_program_is_in_use() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortInUse, match="in use"):
            await open_host(NodeKey(os.urandom(32)), listen=[f"127.0.0.1:{port}"]).__aenter__()


async def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1 port 7399: this machine has no such"):
        await open_host(NodeKey(os.urandom(32)), listen=["192.0.2.1:7399"]).__aenter__()


async def test_what_is_announced_is_what_others_learn() -> None:
    announce = "/dns4/node.example/tcp/7330"
    async with open_host(
        NodeKey(os.urandom(32)), listen=["0.0.0.0:0"], announce=[announce]
    ) as host:
        assert host.addrs == [f"{announce}/p2p/{host.peer_id}"]


def test_a_port_is_held_until_it_is_let_go() -> None:
    port = a_port()
    with hold_port("127.0.0.1", port):
        with pytest.raises(PortInUse), hold_port("0.0.0.0", port):  # noqa: S104 never bound
            pass
    with hold_port("127.0.0.1", port), hold_port("127.0.0.1", 0):
        pass


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7330", ("127.0.0.1", 7330)),
        ("[::1]:0", ("::1", 0)),
        ("/ip4/0.0.0.0/tcp/7330", ("0.0.0.0", 7330)),  # noqa: S104 only parsed
        ("/ip6/::/tcp/1", ("::", 1)),
    ],
)
def test_listen_addresses(text: str, address: tuple[str, int]) -> None:
    assert listen_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "7330", "localhost:1", "127.0.0.1", "1.2.3.4:70000", "1.2.3.4:-1", "/ip4/1.2.3.4/udp/1",
     "/dns4/a/tcp/1", "/ip4/999.1.1.1/tcp/1", "/ip4/1.2.3.4/tcp/1/ws", "[::1:5"],
)  # fmt: skip
def test_listen_addresses_that_make_no_sense(text: str) -> None:
    with pytest.raises(ConfigError):
        listen_address(text)


@pytest.mark.parametrize(
    "transport", ["/ip4/192.0.2.7/tcp/7330", "/dns4/a.example/tcp/1", "/ip6/::1/tcp/9"]
)
def test_peer_addresses(transport: str) -> None:
    address = parse_peer_address(f"{transport}/p2p/{PEER}")
    assert (address.peer, address.transport) == (PEER, transport)
    assert str(address) == f"{transport}/p2p/{PEER}"


@pytest.mark.parametrize(
    "text",
    ["", "192.0.2.7:7330", "/ip4/192.0.2.7/tcp/7330", f"/ip4/192.0.2.7/udp/1/quic-v1/p2p/{PEER}",
     f"/p2p/{PEER}", "/ip4/192.0.2.7/tcp/7330/p2p/Qm", f"/ip4/x/tcp/1/p2p/{PEER}",
     f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit"],
)  # fmt: skip
def test_peer_addresses_that_make_no_sense(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_peer_address(text)
    assert repr(text) in caught.value.detail or text in caught.value.detail


async def test_a_node_that_listens_everywhere_tells_real_addresses() -> None:
    async with open_host(NodeKey(os.urandom(32)), listen=["0.0.0.0:0"]) as host:
        hosts = [addr.split("/")[2] for addr in host.addrs]
        assert "127.0.0.1" in hosts
        assert "0.0.0.0" not in hosts  # noqa: S104 that is the point
        async with open_host(NodeKey(os.urandom(32)), listen=[]) as guest:
            with trio.fail_after(10):
                assert await guest.dial(host.addrs) == host.peer_id


async def test_an_error_in_the_block_comes_out_as_it_was() -> None:
    with trio.fail_after(10), pytest.raises(KeyError):
        async with open_host(NodeKey(os.urandom(32)), listen=["127.0.0.1:0"]):
            raise KeyError("of the block")


async def test_a_listen_that_fails_behind_the_probe_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "hold_port", lambda _host, _port: nullcontext())
    with trio.fail_after(10), pytest.raises(PortInUse):
        async with open_host(NodeKey(os.urandom(32)), listen=["192.0.2.1:7399"]):
            pytest.fail("it does not listen")
