"""The node's p2p side as one supervised child, the same to its users over restarts of the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from r3mes.errors import NetworkError, NotReady
from r3mes.ids import PeerId
from r3mes.p2p.host import Host, HostLimits, PeerConnection, open_host
from r3mes.p2p.identity import NodeKey
from r3mes.p2p.protocols.infer import (
    INFER,
    INFER_1_0,
    INFER_1_1,
    ClientCall,
    Hello,
    InferService,
    serve_infer,
)
from r3mes.p2p.streams import FrameStream, staple


class Network:
    """Opens streams to peers and to the node itself, and serves those that peers open.

    Args:
        key: the node's identity.
        listen: ``host:port`` each; port 0 takes a free one.
        announce: multiaddresses told to peers instead of those found out.
        service: answers the inference protocol.
        banned: who gets no connection.
    """

    def __init__(
        self,
        key: NodeKey,
        *,
        listen: Sequence[str],
        announce: Sequence[str],
        service: InferService,
        banned: Callable[[PeerId], bool],
    ) -> None:
        self._banned = banned
        self._key, self._listen, self._announce = key, listen, announce
        self._service = service
        self._host: Host | None = None
        self.dials: Counter[str] = Counter()
        """Dials so far, by outcome: ``ok`` or ``failed``."""

    @property
    def peer_id(self) -> PeerId:
        return self._key.peer_id

    @property
    def addrs(self) -> Sequence[str]:
        """Full multiaddresses of this node; empty while the host restarts."""
        return self._host.addrs if self._host else ()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the host open until cancelled."""
        async with open_host(
            self._key,
            listen=self._listen,
            announce=self._announce,
            limits=HostLimits(),
            banned=self._banned,
        ) as host:
            host.serve(INFER, self._serve, older=[INFER_1_1, INFER_1_0])
            async with trio.open_nursery() as self._tasks:
                self._host = host
                try:
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    self._host = None

    async def _serve(self, stream: FrameStream) -> None:
        await serve_infer(stream, self._service)

    def _up(self) -> Host:
        if self._host is None:
            raise NotReady("the network side of the node is restarting", retry_after_s=1.0)
        return self._host

    async def dial(self, addrs: Sequence[str]) -> PeerId:
        try:
            peer = await self._up().dial(addrs)
        except NetworkError:
            self.dials["failed"] += 1
            raise
        self.dials["ok"] += 1
        return peer

    async def knock(self) -> None:
        """Return when the listeners have answered a connection from this machine.

        Raises:
            NotReady: the host restarts.
            PeerUnreachable: nobody listens.
        """
        await self._up().knock()

    async def wait_closed(self, peer: PeerId) -> None:
        await self._up().wait_closed(peer)

    async def ping(self, peer: PeerId) -> float:
        """Seconds to ``peer`` and back, smoothed."""
        return await self._up().ping(peer)

    async def disconnect(self, peer: PeerId) -> None:
        """Close all connections to ``peer``; what runs over them ends unfinished."""
        await self._up().disconnect(peer)

    def peers(self) -> Sequence[PeerConnection]:
        """All connections; none while the host restarts."""
        return self._host.peers() if self._host else ()

    def connected(self) -> Sequence[PeerId]:
        """Peers with a connection, each once; none while the host restarts."""
        return tuple({connection.peer: None for connection in self.peers()})

    def connections(self) -> trio.MemoryReceiveChannel[PeerId]:
        """Peers as they connect from now on."""
        return self._up().connections()

    async def greet(self, peer: PeerId) -> Hello:
        """What ``peer`` says of itself now."""
        async with self.connect(peer) as stream, ClientCall(stream) as call:
            return await call.hello()

    @asynccontextmanager
    async def connect(self, peer: PeerId) -> AsyncIterator[FrameStream]:
        """A stream of the inference protocol to ``peer``, or to this node itself."""
        stream = await self._open(peer)
        try:
            yield stream
        finally:
            await stream.aclose()

    async def _open(self, peer: PeerId) -> FrameStream:
        host = self._up()
        if peer != self.peer_id:
            return await host.open_stream(peer, INFER, older=[INFER_1_1, INFER_1_0])
        near, far = staple(peer, peer, INFER)
        self._tasks.start_soon(self._serve, far)
        return near
