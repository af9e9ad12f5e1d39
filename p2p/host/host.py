"""What the rest of the node sees of the network: dial, open and serve streams of frames."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from r3mes.errors import ConfigError, PeerBanned, PeerUnreachable
from r3mes.ids import PeerId
from r3mes.p2p.addresses import PeerAddress, parse_peer_address
from r3mes.p2p.host.connections import Connections, PeerConnection
from r3mes.p2p.host.net_streams import NetBytes, StreamCounts
from r3mes.p2p.host.unwelcome import Banned
from r3mes.p2p.knock import knock
from r3mes.p2p.limits import HostLimits
from r3mes.p2p.repairs.pings import round_trip
from r3mes.p2p.streams import FramedStream, FrameStream

logger = logging.getLogger(__name__)

NEXT_ADDRESS_S = 0.5
"""Head start of an address before the next one of the same peer is tried beside it."""


class Host:
    """A node on the network; made by `r3mes.p2p.host.open_host`.

    Attributes:
        peer_id: who this node is.
        addrs: where it can be dialled: full addresses, ``/p2p/…`` included.
    """

    def __init__(
        self,
        host: BasicHost,
        peer_id: PeerId,
        addrs: Sequence[str],
        limits: HostLimits,
        banned: Banned,
    ) -> None:
        self.peer_id, self.addrs, self._banned = peer_id, list(addrs), banned
        self._host, self._swarm = host, cast(Swarm, host.get_network())
        self._connections = Connections()
        self._swarm.register_notifee(self._connections)
        self._outbound = StreamCounts(limits.streams_per_peer, sys.maxsize)
        self._inbound = StreamCounts(limits.inbound_streams_per_peer, limits.streams)

    def serve(
        self,
        protocol: str,
        handler: Callable[[FrameStream], Awaitable[None]],
        *,
        older: Sequence[str] = (),
    ) -> None:
        """Have ``handler`` speak ``protocol`` with whoever opens a stream for it, or for ``older``.

        The stream is closed when the handler returns; an exception ends only its stream.  A peer
        with too many streams of one protocol in flight has the next one reset.
        """

        async def handle(net_stream: INetStream) -> None:
            peer = PeerId(str(net_stream.muxed_conn.peer_id))
            if not self._inbound.take(peer, protocol):
                await net_stream.reset()
                return
            stream = FramedStream(
                NetBytes(net_stream, lambda: self._inbound.give_back(peer, protocol))
            )
            try:
                await handler(stream)
            finally:
                await stream.aclose()

        for version in (protocol, *older):
            self._host.set_stream_handler(TProtocol(version), handle)

    async def knock(self) -> None:
        """Return when each listener of this host has answered; the caller sets how long to wait.

        Raises:
            PeerUnreachable: one does not listen any more.
        """
        for listener in self._swarm.listeners.values():
            for address in listener.get_addrs():
                _, _, host, _, port, *_ = str(address).split("/")
                await knock(host, int(port))

    async def dial(self, addrs: Sequence[str], *, timeout: float = 6.0) -> PeerId:
        """Connect to a peer by any of its addresses; at once if it is connected.

        All are tried: the next one starts when one has failed or has had its head start.

        Args:
            addrs: full addresses of one peer.
            timeout: seconds for all of them together.

        Raises:
            PeerBanned: it is banned.
            PeerUnreachable: none worked in time.
            ConfigError: no addresses, of several peers, or in a form that we cannot use.
        """
        known = [parse_peer_address(addr) for addr in addrs]
        if len({address.peer for address in known}) != 1:
            raise ConfigError(f"a dial needs addresses of one peer, not {list(addrs)}")
        peer = known[0].peer
        if peer == self.peer_id:
            raise PeerUnreachable(f"{peer} is this node itself")
        self._refuse_banned(peer)
        if not self._connections.has(peer):
            await self._dial_any(known, timeout)
        if self._banned(peer):  # since the handshake began
            await self.disconnect(peer)
            self._refuse_banned(peer)
        return peer

    def _refuse_banned(self, peer: PeerId) -> None:
        if self._banned(peer):
            raise PeerBanned(f"{peer} is banned here")

    async def _dial_any(self, addresses: Sequence[PeerAddress], timeout: float) -> None:
        failures: list[str] = []
        connected = False

        async def attempt(address: PeerAddress, failed: trio.Event) -> None:
            nonlocal connected
            try:
                await self._swarm.dial_addr(
                    Multiaddr(address.transport), ID.from_base58(address.peer)
                )
            except (BaseLibp2pError, OSError) as error:
                failures.append(f"{address.transport} ({error})")
                failed.set()
            else:
                connected = True
                nursery.cancel_scope.cancel()

        with trio.move_on_after(timeout):
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    failed = trio.Event()
                    nursery.start_soon(attempt, address, failed)
                    with trio.move_on_after(NEXT_ADDRESS_S):
                        await failed.wait()
        if not connected:
            tried = "; ".join(failures) or f"no answer within {timeout:g} s"
            raise PeerUnreachable(f"{addresses[0].peer} cannot be dialled: {tried}")

    async def open_stream(
        self, peer: PeerId, protocol: str, *, older: Sequence[str] = (), timeout: float = 6.0
    ) -> FrameStream:
        """Open a stream of ``protocol`` to a connected peer; the caller closes it.

        Args:
            peer: to whom.
            protocol: what to speak.
            older: versions of it for a peer that does not know this one; they count as one.
            timeout: seconds for all of it.

        Raises:
            PeerUnreachable: not connected, the peer speaks none of them, or not in time.
        """
        with trio.move_on_after(timeout):
            await self._outbound.wait_take(peer, protocol)
            stream = None
            try:
                stream = await self._negotiate(peer, [protocol, *older])
            finally:
                if stream is None:
                    self._outbound.give_back(peer, protocol)
            return FramedStream(NetBytes(stream, lambda: self._outbound.give_back(peer, protocol)))
        raise PeerUnreachable(f"{peer} opened no stream for {protocol} within {timeout:g} s")

    async def _negotiate(self, peer: PeerId, versions: Sequence[str]) -> INetStream:
        known = [TProtocol(version) for version in versions]
        try:
            return await self._host.new_stream(ID.from_base58(peer), known)
        except (BaseLibp2pError, OSError, trio.TooSlowError) as error:
            raise PeerUnreachable(f"{peer} opened no stream for {versions[0]}: {error}") from error

    def peers(self) -> list[PeerConnection]:
        """All connections; a peer may have more than one."""
        return self._connections.all()

    async def ping(self, peer: PeerId) -> float:
        """Seconds to ``peer`` and back, smoothed.

        Raises:
            PeerUnreachable: it is not connected, or does not answer.
        """
        conn = self._connections.to(peer)
        rtt_s = await round_trip(cast(Yamux, conn.muxed_conn)) if conn else None
        if rtt_s is None:
            raise PeerUnreachable(f"{peer} is not connected or does not answer")
        return rtt_s

    def connections(self) -> trio.MemoryReceiveChannel[PeerId]:
        """Peers as they connect, from now on; close the channel when done."""
        return self._connections.news()

    async def disconnect(self, peer: PeerId) -> None:
        """Close all connections to ``peer``."""
        with trio.CancelScope(shield=True):
            await self._swarm.close_peer(ID.from_base58(peer))

    async def wait_closed(self, peer: PeerId) -> None:
        """Return once ``peer`` is no longer connected; at once if it is not."""
        await self._connections.wait_gone(peer)
