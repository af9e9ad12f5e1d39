"""A peer that came by IPv6 has an address.

Defect: `TrioTCPStream.get_remote_address` takes the pair that IPv4 has for an address and says None
to the four values of IPv6, so that all IPv6 peers are one neighbour to the gate, and nameless.

Fix: the first two values count.  An IPv4 peer of a socket for both families is an IPv4 peer.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from libp2p.io.trio import TrioTCPStream


def _get_remote_address(self: TrioTCPStream) -> tuple[str, int] | None:
    if self._cached_remote_address is None:
        try:
            host, port, *_ = self.stream.socket.getpeername()
        except OSError:  # the socket is closed, or the peer left at once
            return None
        self._cached_remote_address = _plain(host), port
    return self._cached_remote_address


def _plain(host: str) -> str:
    address = ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or host)


def apply() -> None:
    """Put the repair in place."""
    TrioTCPStream.get_remote_address = _get_remote_address  # type: ignore[method-assign]
