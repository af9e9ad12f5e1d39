"""P3: a peer that sends more than its window allows loses the connection.

Defect: `Yamux.handle_incoming` logs a violated window, sets it back to 0 and keeps buffering: one
peer put 600 MB into one stream that nobody read (RSS 92 to 697 MB in 2.6 s).

Fix: `YamuxStream.recv_window` is exactly what we granted and the peer has not used yet, so a
negative value is a violation by definition.  The stream's buffer is dropped and the connection
closed.  The window grows to `MAX_WINDOW_BYTES` instead of 16 MiB.
"""

from __future__ import annotations

import logging

from libp2p.stream_muxer.yamux import yamux

logger = logging.getLogger(__name__)

MAX_WINDOW_BYTES = 1 << 20
"""Largest window of one stream, and largest announced frame."""

_handle_incoming = yamux.Yamux.handle_incoming


class WindowViolated(Exception):
    """Ends the frame loop of a connection; libp2p logs it."""


class _ReceiveWindow:
    """The attribute `recv_window`, watched."""

    def __get__(self, stream: yamux.YamuxStream, kind: type | None = None) -> int:
        return int(stream.__dict__["recv_window"])

    def __set__(self, stream: yamux.YamuxStream, window: int) -> None:
        stream.__dict__["recv_window"] = window
        if window < 0:
            connection = stream.conn
            connection.stream_buffers[stream.stream_id].clear()
            connection.event_shutting_down.set()
            logger.info("%s overran its window by %d bytes", connection.peer_id, -window)
            raise WindowViolated(f"window overrun by {-window} bytes")


async def _handle_incoming_then_close(self: yamux.Yamux) -> None:
    """The stock loop leaves when the connection shuts down but does not always close it."""
    await _handle_incoming(self)
    if not self.event_closed.is_set():
        await self._cleanup_on_error()


def apply() -> None:
    """Put the repair in place."""
    yamux.MAX_WINDOW_SIZE = MAX_WINDOW_BYTES
    yamux.YamuxStream.recv_window = _ReceiveWindow()  # type: ignore[assignment]
    yamux.Yamux.handle_incoming = _handle_incoming_then_close  # type: ignore[method-assign]
