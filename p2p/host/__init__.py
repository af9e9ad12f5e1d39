"""Our libp2p host: with `r3mes.p2p.repairs` the only part that knows libp2p.

Importing it takes 1.2 s, so nothing outside imports it before a node starts.
"""

from r3mes.p2p.host.connections import PeerConnection
from r3mes.p2p.host.host import Host
from r3mes.p2p.host.opening import open_host
from r3mes.p2p.limits import HostLimits

__all__ = ["Host", "HostLimits", "PeerConnection", "open_host"]
