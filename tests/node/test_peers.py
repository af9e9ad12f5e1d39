"""What the operator sees and does of peers: real hosts, router and store."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from r3mes.actors.bans import Bans
from r3mes.actors.kernel.mailbox import Mailbox
from r3mes.actors.requests.binding import bind, verify_binding
from r3mes.actors.router import Message, Router, RouterClient
from r3mes.actors.store import open_store
from r3mes.chain.keys.wallet import Wallet
from r3mes.errors import BadRequest, ModelNotFound, NotFound, PeerBanned, PeerUnreachable
from r3mes.ids import ModelHash
from r3mes.node.network import Network
from r3mes.node.peers import Peers
from r3mes.p2p.identity import NodeKey
from r3mes.p2p.protocols.infer import Hello, ModelOffer, Request, ServerCall

pytestmark = pytest.mark.net

OFFER = ModelOffer("tiny", ModelHash(b"t" * 32), 64, 1, 2)


class Greeter:
    """Says hello and answers nothing."""

    def __init__(self, key: NodeKey) -> None:
        self.wallet = Wallet.create()
        self._hello = Hello(b"epoch-01", bind(self.wallet, key), (OFFER,), "c")

    def hello(self) -> Hello:
        return self._hello

    async def answer(self, request: Request, call: ServerCall) -> None:
        raise NotImplementedError


def network(key: NodeKey, bans: Bans | None = None) -> Network:
    return Network(
        key,
        listen=["127.0.0.1:0"],
        announce=[],
        service=Greeter(key),
        banned=bans.holds if bans else lambda peer: False,
    )


@pytest.fixture
async def bob(nursery: trio.Nursery) -> Network:
    node = network(NodeKey(os.urandom(32)))
    await nursery.start(node.run)
    return node


@pytest.fixture
async def peers(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Peers]:
    key = NodeKey(os.urandom(32))
    async with open_store(tmp_path) as store:
        bans = Bans(store, own=key.peer_id, now_ms=lambda: 1_000)
        own = network(key, bans)
        await nursery.start(own.run)
        mailbox: Mailbox[Message] = Mailbox("router")
        router = Router(
            mailbox,
            own,
            verify_binding=lambda binding, peer: verify_binding(binding, peer=peer),
            chain_id="c",
            bootstrap=[],
            random=Random(7),  # noqa: S311
            banned=bans.holds,
        )
        await nursery.start(router.run)
        with trio.fail_after(20):
            yield Peers(own, RouterClient(mailbox), bans)


async def test_a_peer_is_connected_seen_banned_and_let_in_again(
    peers: Peers, bob: Network, audited: Callable[[], list[dict[str, Any]]]
) -> None:
    connected = await peers.connect(bob.addrs[0])
    assert connected.peer_id == bob.peer_id
    assert connected.rtt_ms > 0
    while not (shown := await peers.shown())[0].models:  # noqa: ASYNC110  until its hello
        await trio.sleep(0.02)
    (seen,) = shown
    assert (seen.peer_id, seen.direction, seen.mode) == (bob.peer_id, "outbound", "direct")
    assert (seen.models[0].name, seen.models[0].hash) == ("tiny", OFFER.hash.hex())
    assert seen.wallet is not None
    assert seen.address in bob.addrs[0]

    await peers.ban(bob.peer_id, ttl_s=None, reason="floods us")
    await bob.wait_closed(peers._network.peer_id)
    assert await peers.shown() == []
    with pytest.raises(ModelNotFound):
        await peers._router.candidates("tiny")
    with pytest.raises(PeerBanned):
        await peers.connect(bob.addrs[0])
    with pytest.raises(PeerUnreachable):
        await bob.dial(peers._network.addrs)
    assert [(ban.peer_id, ban.reason) for ban in peers.bans()] == [(bob.peer_id, "floods us")]

    await peers.unban(bob.peer_id)
    banned = {"event": "peer_banned", "peer": bob.peer_id, "reason": "floods us"}
    assert audited() == [banned, {"event": "peer_unbanned", "peer": bob.peer_id}]
    await bob.dial(peers._network.addrs)
    (seen,) = await peers.shown()
    assert seen.direction == "inbound"
    await peers.disconnect(bob.peer_id)
    assert await peers.shown() == []


async def test_what_is_not_there_is_said(peers: Peers, bob: Network) -> None:
    with pytest.raises(NotFound):
        await peers.disconnect(bob.peer_id)
    with pytest.raises(NotFound):
        await peers.unban(bob.peer_id)
    for addr in ("", "/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1/p2p/nobody"):
        with pytest.raises(BadRequest) as refused:
            await peers.connect(addr)
        assert refused.value.param == "addr"
