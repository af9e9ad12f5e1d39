"""P1: a frame is written whole, or the connection ends.

Defect: `Yamux._write_frame` may be cancelled while the cipher has counted the frame and the socket
has not taken all of it.  Both ends then disagree about the nonce, and every stream of the
connection is dead after one cancelled write (or 22 cancelled reads: a read sends window updates).

Fix: once the bytes go to the cipher no cancel reaches them; a cancel before that changes nothing.
A peer that takes nothing for `STALL_S` loses the connection.
"""

from __future__ import annotations

import logging

import trio
from libp2p.network.connection.exceptions import RawConnError
from libp2p.stream_muxer.yamux import yamux

logger = logging.getLogger(__name__)

STALL_S = 20.0
"""Longest time that one frame may wait for the peer's socket buffer."""


async def _write_frame(self: yamux.Yamux, data: bytes) -> None:
    await trio.lowlevel.checkpoint_if_cancelled()
    async with self._write_lock:
        with trio.move_on_after(STALL_S, shield=True):
            await self.secured_conn.write(data)
            return
        logger.info("%s took no bytes for %g s, connection closed", self.peer_id, STALL_S)
        with trio.CancelScope(shield=True):
            await self._cleanup_on_error()
        raise RawConnError("connection closed: a write stalled")


def apply() -> None:
    """Put the repair in place."""
    yamux.Yamux._write_frame = _write_frame  # type: ignore[method-assign]
