"""A banned peer gets no connection, whoever dials."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import trio

from r3mes.errors import PeerBanned, PeerUnreachable
from r3mes.ids import PeerId
from r3mes.p2p.host import Host, open_host
from r3mes.p2p.identity import NodeKey

pytestmark = pytest.mark.net


class Banned:
    """Everybody, from the question after the first ``spared`` ones on."""

    def __init__(self) -> None:
        self.spared = 0

    def __call__(self, peer: PeerId) -> bool:
        self.spared -= 1
        return self.spared < 0


@pytest.fixture
def banned() -> Banned:
    return Banned()


@pytest.fixture
async def strict(banned: Banned) -> AsyncIterator[Host]:
    async with open_host(NodeKey(os.urandom(32)), listen=["127.0.0.1:0"], banned=banned) as host:
        with trio.fail_after(15):
            yield host


@pytest.fixture
async def guest() -> AsyncIterator[Host]:
    async with open_host(NodeKey(os.urandom(32)), listen=["127.0.0.1:0"]) as host:
        yield host


async def test_neither_side_gets_a_connection_until_the_ban_ends(
    strict: Host, guest: Host, banned: Banned
) -> None:
    with strict.connections() as news:
        with pytest.raises(PeerUnreachable):
            await guest.dial(strict.addrs)
        with pytest.raises(PeerBanned):
            await strict.dial(guest.addrs)
        assert strict.peers() == guest.peers() == []
        with pytest.raises(trio.WouldBlock):
            news.receive_nowait()  # nobody heard of it
    banned.spared = 1000
    assert await strict.dial(guest.addrs) == guest.peer_id


async def test_a_ban_that_comes_while_the_peer_shakes_hands(
    strict: Host, guest: Host, banned: Banned
) -> None:
    banned.spared = 1  # the look at the end of the handshake
    await guest.dial(strict.addrs)
    await guest.wait_closed(strict.peer_id)
    await strict.wait_closed(guest.peer_id)


async def test_a_ban_that_comes_while_a_peer_is_dialled(
    strict: Host, guest: Host, banned: Banned
) -> None:
    banned.spared = 2  # the looks before and at the end of the handshake
    with pytest.raises(PeerBanned):
        await strict.dial(guest.addrs)
    await guest.wait_closed(strict.peer_id)
    assert strict.peers() == []


async def test_a_ping_measures_and_shares_the_one_that_is_under_way(
    strict: Host, guest: Host, banned: Banned
) -> None:
    banned.spared = 1000
    await strict.dial(guest.addrs)
    measured: list[float] = []

    async def ping() -> None:
        measured.append(await strict.ping(guest.peer_id))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ping)
    assert all(0 < rtt_s < 5 for rtt_s in measured)
    (connection,) = strict.peers()
    assert connection.rtt_s is not None
    await guest.disconnect(strict.peer_id)
    await strict.wait_closed(guest.peer_id)
    with pytest.raises(PeerUnreachable):
        await strict.ping(guest.peer_id)
