"""How much a host takes on; P13 of the repairs: libp2p's own limits lifted to ours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Bounds of one host.

    Args:
        connections: established inbound connections; one costs 60 kB and a file descriptor.
        connections_per_prefix: of these from one address (IPv6: /64).
        pending: handshakes at once; above it the oldest is closed.
        pending_per_prefix: of these from one address (IPv6: /64).
        dials: established outbound connections.
        streams_per_peer: streams in flight for each peer and protocol, each way; go-libp2p
            refuses from about the 65th.
        streams: inbound streams in flight in all; one may hold 2 MiB of what its peer sent.
        handshake_s: deadline of an inbound handshake.
    """

    connections: int = 1024
    connections_per_prefix: int = 64
    pending: int = 256
    pending_per_prefix: int = 64
    dials: int = 512
    streams_per_peer: int = 64
    streams: int = 512
    handshake_s: float = 8.0

    @property
    def inbound_streams_per_peer(self) -> int:
        """A few more than a peer may open: it counts those as closed that we are still closing."""
        return self.streams_per_peer * 5 // 4
