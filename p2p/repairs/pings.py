"""P4: a peer that does not answer a ping loses the connection.

Defect: `Yamux._measure_rtt_loop` asks every 30 s and ignores that no answer came.  A frozen peer
or a dead path is never noticed: readers wait for ever, writers hold the connection's write lock.

Fix: ask every `EVERY_S`, close after `ANSWER_S` without an answer; noticed within 10 s.
"""

from __future__ import annotations

import logging
import struct

import trio
from libp2p.stream_muxer.yamux import yamux

logger = logging.getLogger(__name__)

FIRST_S = 0.5
"""First ping after the handshake: its round trip tunes the window."""
EVERY_S = 5.0
ANSWER_S = 5.0
CLOSE_S = 3.0


async def _measure_rtt_loop(self: yamux.Yamux) -> None:
    await trio.sleep(FIRST_S)
    while not self.event_shutting_down.is_set():
        if not await _ping(self):
            logger.info("no answer from %s in %g s, connection closed", self.peer_id, ANSWER_S)
            with trio.move_on_after(CLOSE_S, shield=True):
                await self._cleanup_on_error()
            return
        with trio.move_on_after(EVERY_S):
            await self.event_shutting_down.wait()


async def round_trip(connection: yamux.Yamux) -> float | None:
    """Seconds to the peer and back, smoothed; None if the connection ends before it answers."""
    await _ping(connection)
    return connection.rtt() or None


async def _ping(connection: yamux.Yamux) -> bool:
    """Whether an answer came, or none is needed because the connection ends anyway."""
    with trio.move_on_after(ANSWER_S):
        if connection._ping_id and not connection._ping_event.is_set():
            await connection._ping_event.wait()  # libp2p knows one ping at a time: share it
            return True
        connection._ping_id += 1
        connection._ping_event = trio.Event()
        connection._ping_sent_time = trio.current_time()
        header = struct.pack(
            yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_PING, yamux.FLAG_SYN, 0, connection._ping_id
        )
        try:
            await connection._write_frame(header)
        except Exception:  # noqa: BLE001 whatever the transport raises, the connection is over
            return True
        await connection._ping_event.wait()
        return True
    return connection.event_shutting_down.is_set()


def apply() -> None:
    """Put the repair in place."""
    yamux.Yamux._measure_rtt_loop = _measure_rtt_loop  # type: ignore[method-assign]
