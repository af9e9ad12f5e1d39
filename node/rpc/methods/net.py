"""Peers: who is connected, and who may not be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

from pydantic import Field

from r3mes.actors.bans import Ban
from r3mes.errors import BadRequest, NotFound, PeerBanned, PeerUnreachable
from r3mes.ids import PeerId
from r3mes.node.peers import Connected, PeerShown, Reachability
from r3mes.node.rpc.method import method

Limit = Annotated[int, Field(ge=1, le=2000)]


class Peers(Protocol):
    """The peers of this node."""

    async def shown(self) -> list[PeerShown]: ...
    async def connect(self, addr: str) -> Connected: ...
    async def disconnect(self, peer: PeerId) -> None: ...
    async def ban(self, peer: PeerId, *, ttl_s: float | None, reason: str) -> Ban: ...
    async def unban(self, peer: PeerId) -> None: ...
    def bans(self) -> Sequence[Ban]: ...
    def reachability(self) -> Reachability: ...


class NetMethods:
    """The namespace ``net``."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    @method("net_peers", scope="r")
    async def peers(self, limit: Limit = 50, filter: str = "") -> list[PeerShown]:  # noqa: A002
        """The connected peers, the longest connected first.

        `filter` keeps those whose id, address or models contain it.
        """
        shown = [peer for peer in await self._peers.shown() if _fits(peer, filter)]
        return shown[:limit]

    @method("net_reachability", scope="r")
    async def reachability(self) -> Reachability:
        """Whether others can reach this node."""
        return self._peers.reachability()

    @method("net_connect", scope="a", errors=(PeerBanned, PeerUnreachable))
    async def connect(self, addr: str) -> Connected:
        """Dial a peer by its full address, `/ip4/HOST/tcp/PORT/p2p/PEER_ID`."""
        return await self._peers.connect(addr)

    @method("net_disconnect", scope="a", errors=(NotFound,))
    async def disconnect(self, peer_id: str) -> dict[str, object]:
        """Close every connection to a peer; it may come back, unlike one that is banned."""
        await self._peers.disconnect(PeerId(peer_id))
        return {}

    @method("net_ban", scope="a", errors=(BadRequest,))
    async def ban(self, peer_id: str, ttl_s: float | None = None, reason: str = "") -> Ban:
        """Close every connection to a peer and take no new one, for `ttl_s` seconds or for good."""
        return await self._peers.ban(PeerId(peer_id), ttl_s=ttl_s, reason=reason)

    @method("net_unban", scope="a", errors=(NotFound,))
    async def unban(self, peer_id: str) -> dict[str, object]:
        """Let a banned peer connect again."""
        await self._peers.unban(PeerId(peer_id))
        return {}

    @method("net_bans", scope="a")
    async def bans(self) -> list[Ban]:
        """The bans in force, the newest first."""
        return list(self._peers.bans())


def _fits(peer: PeerShown, wanted: str) -> bool:
    return any(wanted in text for text in (peer.peer_id, peer.address, *_names(peer)))


def _names(peer: PeerShown) -> list[str]:
    return [offer.name for offer in peer.models]
