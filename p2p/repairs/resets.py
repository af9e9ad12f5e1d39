"""P9: a reset or a lost connection does not read as the end of the stream.

Defect: both remove the stream from the connection's table, and `YamuxStream.read` then finds it
unknown and reports a clean end: half an answer looks like a whole one.

Fix: the end is a reset unless the peer's FIN came, no RST, and the connection stands.
"""

from __future__ import annotations

from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamReset
from libp2p.stream_muxer.yamux import yamux

from r3mes.p2p.repairs.whole_reads import read_whole


async def _read_or_reset(self: yamux.YamuxStream, n: int | None = -1) -> bytes:
    try:
        return await read_whole(self, n)
    except MuxedStreamEOF as error:
        shutting_down = self.conn.event_shutting_down.is_set()
        if self.reset_received or shutting_down or not self.recv_closed:
            raise MuxedStreamReset("reset by the peer, or the connection was lost") from error
        raise


def apply() -> None:
    """Put the repair in place; after `whole_reads`, on which it stands."""
    yamux.YamuxStream.read = _read_or_reset  # type: ignore[method-assign]
