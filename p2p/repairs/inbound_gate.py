"""P2: the door for inbound connections, one for each host.

Defect: `Swarm._handle_inbound_connection` gives its slot back only when the swarm stops, so a node
takes 250 connections in its lifetime and is deaf from then on.  It has no cap per address: 400
silent sockets from one address keep every honest peer out.

Fix: the slot goes back with the connection.  Handshakes have a deadline and are counted in all and
by address prefix (/32, IPv6 /64); when there are too many, the oldest half-open socket is closed,
not the newest, so a flood cannot hold the door shut.  Established connections are counted
likewise, and the one too many is refused before its handshake, or after it if others were faster.
A peer that was banned while it shook hands is refused as well; `r3mes.p2p.host.unwelcome` turns
away those that were banned before.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import trio
from libp2p.abc import IMuxedConn
from libp2p.io.abc import ReadWriteCloser
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from r3mes.ids import PeerId
from r3mes.p2p.limits import HostLimits
from r3mes.p2p.repairs.handshakes import shake_hands

logger = logging.getLogger(__name__)

CLOSE_S = 0.5


@dataclass(slots=True)
class GateStatistics:
    """What became of those who came."""

    established: int = 0
    refused: int = 0
    evicted: int = 0
    failed: int = 0


class InboundGate:
    """Takes the place of the swarm's own handling of inbound connections."""

    def __init__(self, swarm: Swarm, limits: HostLimits, banned: Callable[[PeerId], bool]) -> None:
        self._swarm, self._limits, self._banned = swarm, limits, banned
        self._pending: dict[ReadWriteCloser, str] = {}  # oldest first
        self._established: Counter[str] = Counter()
        self.statistics = GateStatistics()
        swarm._handle_inbound_connection = self._enter  # type: ignore[method-assign]

    async def _enter(self, read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        socket = read_write_closer
        prefix = _prefix(socket)
        if self._is_full(prefix):
            self.statistics.refused += 1
            await _close(socket)
            return
        await self._make_room(prefix)
        connection = await self._admit(socket, maddr, prefix)
        if connection is None or self._is_full(prefix) or self._is_banned(connection):
            # others may have come in meanwhile, or a ban
            if connection is not None:
                self.statistics.refused += 1
                await _close(connection)
            await _close(socket)
            return
        self._established[prefix] += 1
        self.statistics.established += 1
        try:
            await _closed(connection)
        finally:
            self._established[prefix] -= 1
            self._established += Counter()  # drops the zeros

    def _is_full(self, prefix: str) -> bool:
        return (
            self._established.total() >= self._limits.connections
            or self._established[prefix] >= self._limits.connections_per_prefix
        )

    def _is_banned(self, connection: IMuxedConn) -> bool:
        return self._banned(PeerId(str(connection.peer_id)))

    async def _make_room(self, prefix: str) -> None:
        neighbours = [s for s, p in self._pending.items() if p == prefix]
        if len(neighbours) >= self._limits.pending_per_prefix:
            await self._evict(neighbours[0])
        elif len(self._pending) >= self._limits.pending:
            await self._evict(next(iter(self._pending)))

    async def _evict(self, socket: ReadWriteCloser) -> None:
        del self._pending[socket]
        self.statistics.evicted += 1
        await _close(socket)

    async def _admit(
        self, socket: ReadWriteCloser, listener: Multiaddr, prefix: str
    ) -> IMuxedConn | None:
        self._pending[socket] = prefix
        raw = RawConnection(socket, False)
        try:
            return await shake_hands(
                raw,
                self._limits.handshake_s,
                lambda: self._swarm.upgrade_inbound_raw_conn(raw, listener),
            )
        except Exception as error:  # noqa: BLE001 strangers end handshakes in every way
            self.statistics.failed += 1
            logger.debug("handshake with %s failed: %r", prefix, error)
            return None
        finally:
            self._pending.pop(socket, None)


async def _closed(connection: IMuxedConn) -> None:
    await connection.event_shutting_down.wait()  # type: ignore[attr-defined]


async def _close(socket: ReadWriteCloser | IMuxedConn) -> None:
    with trio.move_on_after(CLOSE_S, shield=True):
        try:
            await socket.close()
        except Exception as error:  # noqa: BLE001 the socket is given up in any case
            logger.debug("closing a socket: %r", error)


def _prefix(socket: ReadWriteCloser) -> str:
    """The network that counts as one neighbour; strangers without an address share one."""
    remote = socket.get_remote_address()
    if remote is None:
        return "?"
    address = ipaddress.ip_address(remote[0].partition("%")[0])
    bits = 32 if address.version == 4 else 64
    return str(ipaddress.ip_network((address, bits), strict=False))
