"""P10: a writer waits longer than 5 s for a slow reader.

Defect: `YamuxStream.write` gives up after 5 s of a full window, which cuts answers to readers that
pause (and what they had buffered is lost).

Fix: wait `WAIT_S`; a peer that is gone is noticed by the pings long before.  Nothing is awaited
between testing the window and taking from it.
"""

from __future__ import annotations

import struct

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux import yamux

WAIT_S = 60.0
POLL_S = 0.01
"""Stock yamux has no event for window updates."""


async def _write(self: yamux.YamuxStream, data: bytes) -> None:
    view = memoryview(data)
    sent = 0
    while sent < len(view):
        await _window(self)
        size = min(self.send_window, yamux.MAX_MESSAGE_SIZE - yamux.HEADER_SIZE, len(view) - sent)
        self.send_window -= size
        header = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, self.stream_id, size)
        await self.conn._write_frame(header + bytes(view[sent : sent + size]))
        sent += size


async def _window(stream: yamux.YamuxStream) -> None:
    """Return once the peer's window is open."""
    deadline = trio.current_time() + WAIT_S
    while True:
        if stream.closed or stream.send_closed:
            kind = MuxedStreamReset if stream.reset_received else MuxedStreamError
            raise kind("the stream is closed for sending")
        if stream.send_window > 0:
            return
        if trio.current_time() > deadline:
            raise MuxedStreamError(f"the peer's window stayed full for {WAIT_S:g} s")
        await trio.sleep(POLL_S)


def apply() -> None:
    """Put the repair in place."""
    yamux.YamuxStream.write = _write  # type: ignore[method-assign]
