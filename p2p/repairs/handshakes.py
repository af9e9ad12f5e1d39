"""A handshake is ended by closing its socket, never by cancelling it.

Defect: `Swarm._dial_addr_single_attempt` and `Swarm.upgrade_inbound_raw_conn` clean up with awaits
that a cancel cuts too, so the resource manager's scope stays taken: after about a thousand of them
everybody is refused.  The outbound security handshake has no deadline of its own.

Fix: the handshake runs shielded; a cancel or the deadline closes the socket under it, and the stock
code takes its ordinary way out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import outcome
import trio
from libp2p.abc import IRawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID

if TYPE_CHECKING:
    from libp2p.network.connection.swarm_connection import SwarmConn

OUTBOUND_S = 8.0

T = TypeVar("T")


class Closable(Protocol):
    """What a handshake runs over."""

    async def close(self) -> None: ...


async def shake_hands(socket: Closable, seconds: float, upgrade: Callable[[], Awaitable[T]]) -> T:
    """What ``upgrade`` returns; it fails when ``seconds`` pass or a cancel comes."""
    finished = trio.Event()

    async def watch() -> None:
        try:
            with trio.move_on_after(seconds):
                await finished.wait()
        finally:
            if not finished.is_set():
                with trio.CancelScope(shield=True):
                    await socket.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        with trio.CancelScope(shield=True):
            result = await outcome.acapture(upgrade)
        finished.set()
    return result.unwrap()


_upgrade_outbound = Swarm.upgrade_outbound_raw_conn


async def _upgrade_outbound_whole(
    self: Swarm, raw_conn: IRawConnection, peer_id: ID, pre_scope: Any = None
) -> SwarmConn:
    return await shake_hands(
        raw_conn, OUTBOUND_S, lambda: _upgrade_outbound(self, raw_conn, peer_id, pre_scope)
    )


def apply() -> None:
    """Put the repair in place, for dials; the inbound side goes through the gate."""
    Swarm.upgrade_outbound_raw_conn = _upgrade_outbound_whole  # type: ignore[method-assign]
