"""The router: which peers exist, what they serve, and whom to ask for a model.

It knows the bootstrap peers and whoever connected, by the hello that each gives on the inference
protocol.  Gossip, scores and continuation come later; its client stays as it is.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol, TypeAlias, assert_never

import trio

from r3mes.actors.candidates import Candidate
from r3mes.actors.kernel.actor import Actor
from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.errors import MailboxFull, ModelNotFound, R3mesError, WireError
from r3mes.ids import Address, PeerId
from r3mes.p2p.protocols.infer import Hello

logger = logging.getLogger(__name__)

REFRESH_S = 15.0
"""Between two hellos of a peer that serves something: how late a new model or price is noticed."""
REFRESH_FIRST_S = 1.0
"""The same at first, doubling: a peer that has just started may still be loading its model."""
REDIAL_FIRST_S, REDIAL_MOST_S = 0.5, 30.0
"""Bounds of the doubling wait before a bootstrap peer is dialled again."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A connected peer and what it said last.

    Args:
        served: our requests that it answered, since it connected.
        failed: of those that it did not.
    """

    peer: PeerId
    wallet: Address
    hello: Hello
    served: int = 0
    failed: int = 0

    def candidates(self) -> tuple[Candidate, ...]:
        """What it offers."""
        return tuple(Candidate(self.peer, self.wallet, offer) for offer in self.hello.models)


class Network(Protocol):
    """What the router needs of p2p."""

    @property
    def peer_id(self) -> PeerId: ...
    async def dial(self, addrs: Sequence[str]) -> PeerId: ...
    async def greet(self, peer: PeerId) -> Hello: ...
    async def wait_closed(self, peer: PeerId) -> None: ...
    def connected(self) -> Sequence[PeerId]: ...
    def connections(self) -> trio.MemoryReceiveChannel[PeerId]: ...


@dataclass(frozen=True, slots=True)
class Candidates(Ask[tuple[Candidate, ...]]):
    """Who serves ``model`` (a name or the hash in hex), best first."""

    model: str


@dataclass(frozen=True, slots=True)
class Peers(Ask[tuple[Peer, ...]]):
    """All connected peers that have said hello."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A peer said hello."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection to a peer is gone."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Ended:
    """A request to a peer came to an end."""

    peer: PeerId
    ok: bool


@dataclass(slots=True)
class Record:
    """What became of our requests to a peer; ``in_a_row`` are failures since the last success."""

    served: int = 0
    failed: int = 0
    in_a_row: int = 0

    def count(self, *, ok: bool) -> None:
        self.served += ok
        self.failed += not ok
        self.in_a_row = 0 if ok else self.in_a_row + 1


Message: TypeAlias = Candidates | Peers | Heard | Lost | Ended


class RouterClient:
    """What the rest of the node sees of the router."""

    def __init__(self, mailbox: Mailbox[Message]) -> None:
        self._mailbox = mailbox

    async def candidates(self, model: str, *, timeout: float = 2.0) -> tuple[Candidate, ...]:
        """Peers that serve ``model``, best first.

        Raises:
            ModelNotFound: no connected peer offers it.
        """
        return await self._mailbox.ask(Candidates(model), timeout=timeout)

    async def peers(self, *, timeout: float = 2.0) -> tuple[Peer, ...]:
        return await self._mailbox.ask(Peers(), timeout=timeout)

    def ended(self, peer: PeerId, *, ok: bool) -> None:
        """Tell how a request to ``peer`` ended; dropped when the router is overrun."""
        try:
            self._mailbox.tell_nowait(Ended(peer, ok))
        except MailboxFull:
            logger.debug("router overrun, an outcome of %s is not counted", peer)


class Router(Actor[Message]):
    """Keeps connections to the bootstrap peers and remembers what every peer offers.

    Args:
        network: the node's p2p side.
        verify_binding: the wallet that vouches for a peer, from the binding in its hello.
        chain_id: peers of another chain are not used.
        bootstrap: multiaddresses of each bootstrap peer.
        random: jitter of the redial waits.
        banned: who is not used, though a connection may still be closing.
    """

    def __init__(
        self,
        mailbox: Mailbox[Message],
        network: Network,
        *,
        verify_binding: Callable[[bytes, PeerId], Address],
        chain_id: str,
        bootstrap: Sequence[Sequence[str]],
        random: Random,
        banned: Callable[[PeerId], bool],
    ) -> None:
        super().__init__(mailbox)
        self._network, self._verify_binding = network, verify_binding
        self._chain_id, self._bootstrap, self._random = chain_id, bootstrap, random
        self._banned = banned
        self._peers: dict[PeerId, Peer] = {}
        self._greeted: set[PeerId] = set()
        self._records: defaultdict[PeerId, Record] = defaultdict(Record)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            for addrs in self._bootstrap:
                nursery.start_soon(self._keep_dialled, addrs)
            nursery.start_soon(self._greet_connections, nursery)
            yield
            nursery.cancel_scope.cancel()

    async def handle(self, message: Message) -> None:
        match message:
            case Candidates(model=model):
                message.reply(self._candidates(model))
            case Peers():
                message.reply(tuple(self._peers_with_records()))
            case Heard(peer=peer):
                self._peers[peer.peer] = peer
            case Lost(peer=lost):
                self._peers.pop(lost, None)
                self._records.pop(lost, None)
            case Ended(peer=ended, ok=ok):
                if ended in self._peers:  # else nothing would ever forget it
                    self._records[ended].count(ok=ok)
            case _:
                assert_never(message)

    def _candidates(self, model: str) -> tuple[Candidate, ...]:
        found = [
            one
            for peer in self._peers.values()
            if not self._banned(peer.peer)
            for one in peer.candidates()
            if model in (one.offer.name, one.offer.hash.hex())
        ]
        if not found:
            raise ModelNotFound(f"no connected peer serves {model!r}", param="model")
        self._random.shuffle(found)  # equals share the load
        return tuple(sorted(found, key=lambda one: self._records[one.peer].in_a_row))

    def _peers_with_records(self) -> Iterator[Peer]:
        for peer in self._peers.values():
            record = self._records[peer.peer]
            yield replace(peer, served=record.served, failed=record.failed)

    async def _keep_dialled(self, addrs: Sequence[str]) -> None:
        wait = REDIAL_FIRST_S
        while True:
            try:
                peer = await self._network.dial(addrs)
                wait = REDIAL_FIRST_S
                await self._network.wait_closed(peer)
            except R3mesError as error:
                logger.info("bootstrap peer %s: %s", addrs[0], error.detail)
                wait = min(REDIAL_MOST_S, wait * 2)
            await trio.sleep(wait * self._random.uniform(0.5, 1.0))

    async def _greet_connections(self, nursery: trio.Nursery) -> None:
        with self._network.connections() as news:
            for peer in self._network.connected():
                self._greet_once(nursery, peer)
            async for peer in news:
                self._greet_once(nursery, peer)

    def _greet_once(self, nursery: trio.Nursery, peer: PeerId) -> None:
        if peer not in self._greeted:  # two peers that dial each other have two connections
            self._greeted.add(peer)
            nursery.start_soon(self._keep_greeted, peer)

    async def _keep_greeted(self, peer: PeerId) -> None:
        """Ask for hellos as long as a connection lives, also one that came as another went."""
        while peer in self._network.connected():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._greet_for_ever, peer)
                await self._network.wait_closed(peer)
                nursery.cancel_scope.cancel()
            await self.mailbox.tell(Lost(peer))
        self._greeted.discard(peer)  # nothing is awaited since the look: no connection is missed

    async def _greet_for_ever(self, peer: PeerId) -> None:
        wait = REFRESH_FIRST_S
        while True:
            serves = await self._greet(peer)
            await trio.sleep(REFRESH_S if serves else wait)
            wait = min(REFRESH_S, wait * 2)

    async def _greet(self, peer: PeerId) -> bool:
        try:
            hello = await self._network.greet(peer)
            known = self._checked(peer, hello)
        except R3mesError as error:
            logger.info("peer %s: no usable hello: %s", peer, error.detail)
            return False
        await self.mailbox.tell(Heard(known))
        return bool(hello.models)

    def _checked(self, peer: PeerId, hello: Hello) -> Peer:
        if hello.chain != self._chain_id:
            raise WireError(f"it belongs to the chain {hello.chain!r}, not {self._chain_id!r}")
        return Peer(peer, self._verify_binding(hello.binding, peer), hello)
