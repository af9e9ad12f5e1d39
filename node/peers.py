"""The peers of this node as its operator sees and handles them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from r3mes.actors.bans import Ban, Bans
from r3mes.actors.router import Peer, RouterClient
from r3mes.errors import BadRequest, ConfigError, NotFound
from r3mes.ids import PeerId
from r3mes.node.audit import audit
from r3mes.node.network import Network
from r3mes.p2p.addresses import parse_peer_address
from r3mes.p2p.host import PeerConnection


@dataclass(frozen=True, slots=True)
class OfferShown:
    """A model that a peer offers; prices in uremes per million tokens."""

    name: str
    hash: str
    context: int
    price_prompt: int
    price_completion: int


@dataclass(frozen=True, slots=True)
class PeerShown:
    """A connected peer.

    Args:
        wallet: the account it is paid on; None until it has said hello.
        address: where it is; of its oldest connection, like all that follows.
        direction: ``inbound`` if it dialled, ``outbound`` if this node did.
        mode: how the connection runs; always ``direct`` now.
        rtt_ms: to the peer and back; None until it was measured.
        age_s: since the connection began.
        served: requests of this node that it answered, since it connected.
        failed: those that it did not.
    """

    peer_id: str
    wallet: str | None
    address: str
    direction: str
    mode: str
    rtt_ms: float | None
    age_s: float
    models: list[OfferShown]
    served: int
    failed: int


@dataclass(frozen=True, slots=True)
class Connected:
    """A peer that was dialled, and the time to it and back."""

    peer_id: str
    rtt_ms: float


@dataclass(frozen=True, slots=True)
class Reachability:
    """Whether others can reach this node.

    Args:
        verdict: always ``unknown`` now: nobody outside has tried.
        unknown: the addresses that nobody has tried.
    """

    verdict: str
    unknown: list[str]


class Peers:
    """Looks at peers, connects, disconnects and bans them.

    Args:
        network: the node's p2p side.
        router: knows what each peer offers and how it did.
        bans: the peers that get no connection.
    """

    def __init__(self, network: Network, router: RouterClient, bans: Bans) -> None:
        self._network, self._router, self._bans = network, router, bans

    async def shown(self) -> list[PeerShown]:
        """Every connected peer, the longest connected first."""
        known = {peer.peer: peer for peer in await self._router.peers()}
        oldest: dict[PeerId, PeerConnection] = {}
        for connection in sorted(self._network.peers(), key=lambda one: one.since):
            oldest.setdefault(connection.peer, connection)
        return [_shown(connection, known.get(peer)) for peer, connection in oldest.items()]

    def reachability(self) -> Reachability:
        """What is known of that."""
        return Reachability("unknown", list(self._network.addrs))

    async def connect(self, addr: str) -> Connected:
        """Dial ``addr``, which ends in ``/p2p/PEER_ID``.

        Raises:
            BadRequest: it is no such address.
            PeerBanned, PeerUnreachable: nobody there that could be connected.
        """
        try:
            parse_peer_address(addr)
        except ConfigError as error:
            raise BadRequest(error.detail, do=error.do, param="addr") from None
        peer = await self._network.dial([addr])
        return Connected(peer, _ms(await self._network.ping(peer)))

    async def disconnect(self, peer: PeerId) -> None:
        """Close every connection to ``peer``; it may come back.

        Raises:
            NotFound: it is not connected.
        """
        if peer not in self._network.connected():
            do = "choose one of `r3mes peers`"
            raise NotFound(f"no peer {peer[:64]!r} is connected", do=do, param="peer_id")
        await self._network.disconnect(peer)

    async def ban(self, peer: PeerId, *, ttl_s: float | None, reason: str) -> Ban:
        """Let ``peer`` have no connection, and close those that it has.

        Raises:
            BadRequest: no peer id, this node's own, or a value out of range.
        """
        ban = await self._bans.add(peer, ttl_s=ttl_s, reason=reason)
        audit("peer_banned", peer=peer, for_s=ttl_s, reason=reason)
        if peer in self._network.connected():
            await self._network.disconnect(peer)
        return ban

    async def unban(self, peer: PeerId) -> None:
        """Let ``peer`` connect again.

        Raises:
            NotFound: it is not banned.
        """
        await self._bans.lift(peer)
        audit("peer_unbanned", peer=peer)

    def bans(self) -> Sequence[Ban]:
        """The bans in force, the newest first."""
        return self._bans.all()


def _shown(connection: PeerConnection, known: Peer | None) -> PeerShown:
    rtt_s = connection.rtt_s
    offers = known.hello.models if known else ()
    return PeerShown(
        peer_id=connection.peer,
        wallet=known.wallet if known else None,
        address=connection.address,
        direction="inbound" if connection.inbound else "outbound",
        mode="direct",
        rtt_ms=None if rtt_s is None else _ms(rtt_s),
        age_s=round(trio.current_time() - connection.since, 1),
        models=[
            OfferShown(
                offer.name,
                offer.hash.hex(),
                offer.context,
                offer.price_prompt,
                offer.price_completion,
            )
            for offer in offers
        ],
        served=known.served if known else 0,
        failed=known.failed if known else 0,
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
