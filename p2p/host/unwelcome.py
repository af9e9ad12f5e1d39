"""Who is not let in: refused when the handshake has shown who it is, in both directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from libp2p.abc import IRawConnection, ISecureConn
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.transport.exceptions import SecurityUpgradeFailure

from r3mes.ids import PeerId

Banned: TypeAlias = Callable[[PeerId], bool]
"""Whether a peer is to have no connection with us; asked often, so it must not wait."""


def nobody(peer: PeerId) -> bool:
    """Nobody is banned."""
    return False


def turn_away(swarm: Swarm, banned: Banned) -> None:
    """End every handshake with a banned peer before the peer has a connection."""
    upgrade = swarm.upgrader.upgrade_security

    async def upgrade_security(
        raw_conn: IRawConnection, is_initiator: bool, peer_id: ID | None = None
    ) -> ISecureConn:
        secured = await upgrade(raw_conn, is_initiator, peer_id)
        if banned(PeerId(str(secured.get_remote_peer()))):
            await secured.close()
            raise SecurityUpgradeFailure("the peer is banned")
        return secured

    swarm.upgrader.upgrade_security = upgrade_security  # type: ignore[method-assign]
