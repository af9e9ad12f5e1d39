"""Who is connected: kept from libp2p's notifications, waited for by the rest of the node."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import cast

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from r3mes.ids import PeerId

logger = logging.getLogger(__name__)

NEWS = 1024
"""Connections that may wait for a listener of `Connections.news` before some are dropped."""


@dataclass(frozen=True, slots=True)
class PeerConnection:
    """One connection.

    Args:
        address: of the other end.
        inbound: the other end dialled.
        since: `trio.current_time` of its beginning.
        rtt_s: seconds to the other end and back; None until that was measured.
    """

    peer: PeerId
    address: str
    inbound: bool
    since: float
    rtt_s: float | None = None


class Connections(INotifee):
    """All connections of a host."""

    def __init__(self) -> None:
        self._connections: dict[INetConn, PeerConnection] = {}
        self._gone: dict[PeerId, trio.Event] = {}
        self._listeners: list[trio.MemorySendChannel[PeerId]] = []

    def all(self) -> list[PeerConnection]:
        return [
            replace(known, rtt_s=_rtt(conn) or None) for conn, known in self._connections.items()
        ]

    def has(self, peer: PeerId) -> bool:
        """Whether a connection to ``peer`` stands; one that is being closed does not count."""
        return self.to(peer) is not None

    def to(self, peer: PeerId) -> INetConn | None:
        """A standing connection to ``peer``."""
        for conn, known in self._connections.items():
            if known.peer == peer and not (conn.is_closed or conn.muxed_conn.is_closed):
                return conn
        return None

    async def wait_gone(self, peer: PeerId) -> None:
        """Return once no connection to ``peer`` is left; at once if there is none."""
        gone = self._gone.get(peer)
        if gone is not None:
            await gone.wait()

    def news(self) -> trio.MemoryReceiveChannel[PeerId]:
        """Every peer at its first connection from now on; close the channel when done."""
        send, receive = trio.open_memory_channel[PeerId](NEWS)
        self._listeners.append(send)
        return receive

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        peer = PeerId(str(conn.muxed_conn.peer_id))
        address = next((str(a) for a in conn.get_transport_addresses()), "")
        inbound = not conn.muxed_conn.is_initiator
        self._connections[conn] = PeerConnection(peer, address, inbound, trio.current_time())
        if peer not in self._gone:
            self._gone[peer] = trio.Event()
            self._tell(peer)
        # A connection that closed before it was announced is not announced as gone any more.
        if conn.is_closed:
            self._drop(conn)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        self._drop(conn)

    def _drop(self, conn: INetConn) -> None:
        lost = self._connections.pop(conn, None)
        if lost and all(other.peer != lost.peer for other in self._connections.values()):
            self._gone.pop(lost.peer).set()

    def _tell(self, peer: PeerId) -> None:
        for listener in list(self._listeners):
            try:
                listener.send_nowait(peer)
            except trio.WouldBlock:
                logger.warning("nobody takes the news of connections, %s dropped", peer)
            except trio.BrokenResourceError:
                self._listeners.remove(listener)

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Not needed."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Not needed."""

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Not needed."""

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Not needed."""


def _rtt(conn: INetConn) -> float:
    """In seconds, smoothed; 0 until the first ping was answered."""
    return cast(Yamux, conn.muxed_conn).rtt()
