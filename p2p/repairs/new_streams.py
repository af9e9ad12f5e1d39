"""P7: opening a stream is not cut in the middle.

Defect: `Swarm.new_stream` takes one of 256 slots of the connection before its first write; a
cancel in between keeps the slot for ever (42 of 295 cancelled calls).  It also dials when there is
no connection, by the slow path that blocks a peer for 60 s after a failure.

Fix: the part that holds the slot is shielded, for `OPEN_S` at most; dialling is left to
`r3mes.p2p.host`.
"""

from __future__ import annotations

import trio
from libp2p.abc import INetStream
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID

OPEN_S = 10.0

_new_stream = Swarm.new_stream


async def _shielded(self: Swarm, peer_id: ID) -> INetStream:
    await trio.lowlevel.checkpoint_if_cancelled()
    if not self.get_connections(peer_id):
        raise SwarmException(f"no connection to {peer_id}")
    with trio.fail_after(OPEN_S, shield=True):
        return await _new_stream(self, peer_id)


def apply() -> None:
    """Put the repair in place."""
    Swarm.new_stream = _shielded  # type: ignore[method-assign]
