"""A stream of frames between two nodes, whatever carries it.

Protocols are written against `FrameStream`; `r3mes.p2p.host` gives it over libp2p and `staple`
gives two joined ends in memory, so that a node serves itself by the same code and many-node logic
is tested without sockets.
"""

from __future__ import annotations

import struct
from typing import Protocol

import trio

from r3mes.errors import PeerDisconnected, TooLarge, WireError
from r3mes.ids import PeerId
from r3mes.p2p.wire import FRAME_CAP

_LENGTH = struct.Struct(">I")
READ_BYTES = 1 << 16
"""Most bytes that one read of a byte stream asks for."""
STAPLE_FRAMES = 16
"""Frames that wait between two stapled ends before `send` waits."""
LINGER_S = 2.0
"""How long `close_gently` waits for the other side to finish too."""


class FrameStream(Protocol):
    """A bidirectional stream of bounded byte frames with one authenticated peer."""

    @property
    def peer(self) -> PeerId:
        """Who is at the other end, as the transport proved it; never taken from a payload."""
        ...

    @property
    def protocol(self) -> str:
        """What both sides agreed to speak, version included."""
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
        """Say that no more frames follow; receiving goes on.  Does nothing the second time.

        Raises:
            PeerDisconnected: the stream or its connection is gone.
        """
        ...

    async def aclose(self) -> None:
        """Give the stream up; never raises.

        A reset unless both sides had finished: what the peer has not read yet may be lost to it.
        """
        ...


class ByteStream(Protocol):
    """What a transport gives: bytes in order, both ways, each way closed on its own."""

    @property
    def peer(self) -> PeerId: ...
    @property
    def protocol(self) -> str: ...

    async def read(self, most: int) -> bytes:
        """1 to ``most`` bytes; empty at the end; raises PeerDisconnected when cut."""
        ...

    async def write(self, data: bytes) -> None:
        """All of ``data``; raises PeerDisconnected when cut."""
        ...

    async def close_write(self) -> None:
        """End our direction; raises PeerDisconnected when cut."""
        ...

    async def close(self, *, whole: bool) -> None:
        """Let go: a reset unless ``whole``, both directions having ended; never raises."""
        ...


def frame_bytes(frame: bytes) -> bytes:
    """``frame`` behind its length, as it travels.

    Raises:
        TooLarge: over the cap.
    """
    if len(frame) > FRAME_CAP:
        raise TooLarge(f"a frame of {len(frame)} bytes is over the cap of {FRAME_CAP}")
    return _LENGTH.pack(len(frame)) + frame


class FramedStream:
    """Frames over bytes: a length of 4 bytes, big endian, then the frame."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._sending = trio.Lock()  # tasks that send at once must not mix their frames
        self._buffer = bytearray()
        self._finished = self._ended = self._closed = False

    @property
    def peer(self) -> PeerId:
        return self._stream.peer

    @property
    def protocol(self) -> str:
        return self._stream.protocol

    async def send(self, frame: bytes) -> None:
        data = frame_bytes(frame)
        async with self._sending:
            if self._finished or self._closed:
                raise PeerDisconnected("the stream is closed for sending")
            await self._stream.write(data)

    async def receive(self) -> bytes | None:
        if not await self._fill(_LENGTH.size):
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > FRAME_CAP:
            raise WireError(f"{self.peer} announces a frame of {length} bytes, over {FRAME_CAP}")
        end = _LENGTH.size + length
        await self._fill(end)
        frame = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return frame

    async def _fill(self, size: int) -> bool:
        """Buffer at least ``size`` bytes; False at a clean end.

        A frame that was begun stays in the buffer when a cancel comes, and the next call goes on.
        """
        if self._closed:
            raise PeerDisconnected("the stream is closed")
        while len(self._buffer) < size:
            data = b"" if self._ended else await self._stream.read(READ_BYTES)
            if not data:
                self._ended = True
                if self._buffer:
                    raise PeerDisconnected(f"{self.peer} ended inside a frame")
                return False
            self._buffer += data
        return True

    async def finish(self) -> None:
        if not self._finished and not self._closed:
            self._finished = True
            await self._stream.close_write()

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        with trio.CancelScope(shield=True):
            await self._stream.close(whole=self._finished and self._ended)


async def close_gently(stream: FrameStream) -> None:
    """Finish, give the peer a moment to read and to finish too, then close; never raises."""
    with trio.move_on_after(LINGER_S):
        try:
            await stream.finish()
            while await stream.receive() is not None:
                pass
        except (PeerDisconnected, WireError):
            pass
    await stream.aclose()


class _Direction:
    """Frames on their way from one stapled end to the other."""

    def __init__(self) -> None:
        self.sender, self.receiver = trio.open_memory_channel[bytes](STAPLE_FRAMES)
        self.finished = False


class _StapledStream:
    def __init__(
        self, peer: PeerId, protocol: str, outward: _Direction, inward: _Direction
    ) -> None:
        self._peer, self._outward, self._inward = peer, outward, inward
        self.protocol = protocol
        self._ended = False

    @property
    def peer(self) -> PeerId:
        return self._peer

    async def send(self, frame: bytes) -> None:
        frame_bytes(frame)
        try:
            await self._outward.sender.send(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise PeerDisconnected(f"the stream to {self._peer} is closed") from error

    async def receive(self) -> bytes | None:
        try:
            return await self._inward.receiver.receive()
        except trio.ClosedResourceError as error:
            raise PeerDisconnected(f"the stream to {self._peer} is closed") from error
        except trio.EndOfChannel as error:
            if not self._inward.finished:
                raise PeerDisconnected(f"{self._peer} reset the stream") from error
            self._ended = True
            return None

    async def finish(self) -> None:
        self._outward.finished = True
        self._outward.sender.close()

    async def aclose(self) -> None:
        if not (self._outward.finished and self._ended):
            self._inward.finished = self._outward.finished = False
        for direction in (self._outward, self._inward):
            direction.sender.close()
            direction.receiver.close()


def staple(a: PeerId, b: PeerId, protocol: str) -> tuple[FrameStream, FrameStream]:
    """Two ends of one stream in memory: the first is held by ``a``, the second by ``b``."""
    to_b, to_a = _Direction(), _Direction()
    return _StapledStream(b, protocol, to_b, to_a), _StapledStream(a, protocol, to_a, to_b)
