"""A cancelled read loses no bytes.

Defect: `YamuxStream.read` takes bytes off the buffer and then awaits a window update; a cancel
there drops the bytes, and the reader's frames are out of step from then on.

Fix: waiting for bytes can be cancelled; taking them and the update that follows cannot.
"""

from __future__ import annotations

import trio
from libp2p.stream_muxer.yamux import yamux

_read = yamux.YamuxStream.read


async def read_whole(self: yamux.YamuxStream, n: int | None = -1) -> bytes:
    """`YamuxStream.read` with a cancel only while there is nothing to read."""
    await trio.lowlevel.checkpoint_if_cancelled()
    while _must_wait(self):
        await self.conn.stream_events[self.stream_id].wait()
        if self.stream_id in self.conn.stream_events:
            self.conn.stream_events[self.stream_id] = trio.Event()
    with trio.CancelScope(shield=True):
        data = await _read(self, n)
    return data


def _must_wait(stream: yamux.YamuxStream) -> bool:
    connection = stream.conn
    buffer = connection.stream_buffers.get(stream.stream_id)
    return (
        buffer is not None
        and not buffer
        and stream.stream_id in connection.stream_events
        and not (stream.recv_closed or stream.closed or stream.reset_received)
        and not connection.event_shutting_down.is_set()
    )


def apply() -> None:
    """Put the repair in place."""
    yamux.YamuxStream.read = read_whole  # type: ignore[method-assign]
