"""A stream of frames between two nodes, whatever carries it.

Protocols are written against this; `r3mes.p2p.host` gives it over libp2p and `staple` gives two
joined ends in memory, so that a node serves itself by the same code and many-node logic is tested
without sockets.
"""

from __future__ import annotations

from typing import Protocol

from r3mes.ids import PeerId


class FrameStream(Protocol):
    """A bidirectional stream of bounded byte frames with one authenticated peer."""

    @property
    def peer(self) -> PeerId:
        """Who is at the other end, as the transport proved it; never taken from a payload."""
        ...

    async def send(self, frame: bytes) -> None:
        """Send one frame; waits while the peer's window is full.

        Raises:
            PeerDisconnected: the stream or its connection is gone.
            TooLarge: the frame is over the cap; nothing was sent.
        """
        ...

    async def receive(self) -> bytes | None:
        """The next frame; None once the peer has finished sending in good order.

        Raises:
            PeerDisconnected: reset, or ended inside a frame.
            WireError: the announced length is over the cap.
        """
        ...

    async def finish(self) -> None:
        """Say that no more frames follow; receiving goes on."""
        ...

    async def aclose(self) -> None:
        """Give the stream up, in both directions; never raises."""
        ...
