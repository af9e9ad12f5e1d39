"""libp2p streams as our byte streams, and how many there may be."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import NoReturn

import trio
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.stream.exceptions import StreamEOF

from r3mes.errors import PeerDisconnected
from r3mes.ids import PeerId

logger = logging.getLogger(__name__)

CLOSE_S = 5.0
"""How long closing one stream may take."""


class NetBytes:
    """A `r3mes.p2p.streams.ByteStream` over libp2p.

    Args:
        stream: libp2p's stream, negotiated.
        closed: called once when the stream has been let go.
    """

    def __init__(self, stream: INetStream, closed: Callable[[], None]) -> None:
        self._stream, self._closed = stream, closed
        self._peer = PeerId(str(stream.muxed_conn.peer_id))

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def protocol(self) -> str:
        return str(self._stream.get_protocol())

    async def read(self, most: int) -> bytes:
        try:
            return await self._stream.read(most)
        except StreamEOF:
            return b""
        except _CUT as error:
            self._gone(error)

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except _CUT as error:
            self._gone(error)

    async def close_write(self) -> None:
        try:
            await self._stream.close_write()  # type: ignore[attr-defined]
        except _CUT as error:
            self._gone(error)

    async def close(self, *, whole: bool) -> None:
        with trio.move_on_after(CLOSE_S):
            try:
                await (self._stream.close() if whole else self._stream.reset())
            except Exception as error:  # noqa: BLE001 the stream is given up in any case
                logger.debug("closing a stream of %s: %r", self._peer, error)
        self._closed()

    def _gone(self, error: Exception) -> NoReturn:
        raise PeerDisconnected(f"{self._peer} cut the stream ({type(error).__name__})") from error


_CUT = (BaseLibp2pError, trio.BrokenResourceError, trio.ClosedResourceError, OSError, ValueError)
"""What libp2p raises, in practice, on a stream whose connection is gone."""


class StreamCounts:
    """Streams in flight: at most ``most`` for each peer and protocol, ``total`` in all."""

    def __init__(self, most: int, total: int) -> None:
        self._most, self._total = most, total
        self._all = 0
        self._counts: Counter[tuple[PeerId, str]] = Counter()
        self._change = trio.Event()

    def take(self, peer: PeerId, protocol: str) -> bool:
        """Count one more; False if there are too many."""
        if self._counts[peer, protocol] >= self._most or self._all >= self._total:
            return False
        self._counts[peer, protocol] += 1
        self._all += 1
        return True

    async def wait_take(self, peer: PeerId, protocol: str) -> None:
        """Count one more as soon as there is room."""
        while not self.take(peer, protocol):
            await self._change.wait()

    def give_back(self, peer: PeerId, protocol: str) -> None:
        self._all -= 1
        self._counts[peer, protocol] -= 1
        if not self._counts[peer, protocol]:
            del self._counts[peer, protocol]
        self._change.set()
        self._change = trio.Event()
