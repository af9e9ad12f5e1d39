"""The router on virtual time, with a network that the test scripts."""

from collections.abc import Sequence
from random import Random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from r3mes.actors.kernel.mailbox import Mailbox
from r3mes.actors.router import REFRESH_S, Message, Router, RouterClient
from r3mes.errors import EnvelopeRefused, ModelNotFound, PeerUnreachable
from r3mes.ids import Address, ModelHash, PeerId
from r3mes.p2p.protocols.infer import Hello, ModelOffer

BOB, CAROL = PeerId("bob"), PeerId("carol")
TINY = ModelOffer("tiny", ModelHash(b"t" * 32), 64, 1, 2)


class ScriptedNetwork:
    peer_id = PeerId("alice")

    def __init__(self) -> None:
        self.hellos: dict[PeerId, Hello] = {}
        self.closed: dict[PeerId, trio.Event] = {}
        self.dials: list[float] = []
        self.banned: set[PeerId] = set()
        self._in, self._out = trio.open_memory_channel[PeerId](8)

    def up(self, peer: PeerId, *models: ModelOffer, chain: str = "c", binding: bytes = b"") -> None:
        self.hellos[peer] = Hello(b"epoch-01", binding or peer.encode(), models, chain)

    def connect(self, peer: PeerId) -> None:
        self.closed[peer] = trio.Event()
        self._in.send_nowait(peer)

    async def dial(self, addrs: Sequence[str]) -> PeerId:
        self.dials.append(trio.current_time())
        peer = PeerId(addrs[0])
        if peer not in self.hellos:
            raise PeerUnreachable(f"{peer} is down")
        self.connect(peer)
        return peer

    async def greet(self, peer: PeerId) -> Hello:
        return self.hellos[peer]

    async def wait_closed(self, peer: PeerId) -> None:
        await self.closed[peer].wait()

    def connected(self) -> Sequence[PeerId]:
        return [peer for peer, closed in self.closed.items() if not closed.is_set()]

    def connections(self) -> trio.MemoryReceiveChannel[PeerId]:
        return self._out


def wallet_of(binding: bytes, peer: PeerId) -> Address:
    if binding != peer.encode():
        raise EnvelopeRefused("the binding is for another peer")
    return Address(f"remes1{peer}")


@pytest.fixture
async def network() -> ScriptedNetwork:
    return ScriptedNetwork()


@pytest.fixture
async def router(network: ScriptedNetwork, nursery: trio.Nursery) -> RouterClient:
    mailbox: Mailbox[Message] = Mailbox("router")
    actor = Router(
        mailbox,
        network,
        verify_binding=wallet_of,
        chain_id="c",
        bootstrap=[["bob"]],
        random=Random(7),  # noqa: S311
        banned=network.banned.__contains__,
    )
    await nursery.start(actor.run)
    return RouterClient(mailbox)


async def test_a_bootstrap_peer_is_dialled_until_it_is_there(
    network: ScriptedNetwork, router: RouterClient, autojump_clock: object
) -> None:
    await trio.sleep(100)
    with pytest.raises(ModelNotFound):
        await router.candidates("tiny")
    tries = len(network.dials)
    assert 5 < tries < 20  # doubling, at most half a minute apart
    network.up(BOB, TINY)
    await trio.sleep(31)
    (found,) = await router.candidates("tiny")
    assert (found.peer, found.wallet, found.offer) == (BOB, "remes1bob", TINY)
    assert await router.candidates(TINY.hash.hex()) == (found,)


async def test_a_lost_peer_is_no_candidate_and_is_dialled_again(
    network: ScriptedNetwork, router: RouterClient, autojump_clock: object
) -> None:
    network.up(BOB, TINY)
    await trio.sleep(31)
    network.closed[BOB].set()
    await wait_all_tasks_blocked()
    assert await router.peers() == ()
    await trio.sleep(1)
    assert [peer.peer for peer in await router.peers()] == [BOB]


async def test_a_peer_that_is_back_before_its_loss_was_seen_is_greeted(
    network: ScriptedNetwork, router: RouterClient, autojump_clock: object
) -> None:
    network.up(CAROL, TINY)
    network.connect(CAROL)
    await trio.sleep(1)
    network.closed[CAROL].set()
    network.connect(CAROL)
    await trio.sleep(1)
    assert [peer.peer for peer in await router.peers()] == [CAROL]


async def test_a_model_that_is_loaded_later_is_noticed(
    network: ScriptedNetwork, router: RouterClient, autojump_clock: object
) -> None:
    network.up(CAROL)
    network.connect(CAROL)
    await trio.sleep(0.5)
    assert [peer.hello.models for peer in await router.peers()] == [()]
    network.up(CAROL, TINY)
    await trio.sleep(1)
    assert [one.peer for one in await router.candidates("tiny")] == [CAROL]
    network.up(CAROL)
    await trio.sleep(REFRESH_S)
    with pytest.raises(ModelNotFound):
        await router.candidates("tiny")


@pytest.mark.parametrize("lie", [{"chain": "other"}, {"binding": b"mallory"}])
async def test_a_peer_of_another_chain_or_without_its_wallets_word_is_not_used(
    network: ScriptedNetwork,
    router: RouterClient,
    autojump_clock: object,
    lie: dict[str, str | bytes],
) -> None:
    network.up(CAROL, TINY, **lie)  # type: ignore[arg-type]
    network.connect(CAROL)
    await trio.sleep(1)
    assert await router.peers() == ()


async def test_peers_that_failed_come_last(
    network: ScriptedNetwork, router: RouterClient, autojump_clock: object
) -> None:
    for peer in (BOB, CAROL):
        network.up(peer, TINY)
    network.connect(CAROL)
    await trio.sleep(31)
    for bad, good in ((BOB, CAROL), (CAROL, BOB)):
        router.ended(good, ok=True)
        router.ended(bad, ok=False)
        assert [one.peer for one in await router.candidates("tiny")] == [good, bad]
    counts = {peer.peer: (peer.served, peer.failed) for peer in await router.peers()}
    assert counts == {BOB: (1, 1), CAROL: (1, 1)}


async def test_a_banned_peer_is_no_candidate_while_its_connection_closes(
    network: ScriptedNetwork, router: RouterClient, autojump_clock: object
) -> None:
    network.up(CAROL, TINY)
    network.connect(CAROL)
    await trio.sleep(1)
    assert await router.candidates("tiny")
    network.banned.add(CAROL)
    with pytest.raises(ModelNotFound):
        await router.candidates("tiny")
