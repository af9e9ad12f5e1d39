"""The protocol of one answer between two real hosts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from r3mes.errors import PeerDisconnected, PeerUnreachable
from r3mes.ids import ModelHash
from r3mes.p2p.host import Host
from r3mes.p2p.protocols.infer import (
    INFER,
    INFER_1_0,
    INFER_1_1,
    ClientCall,
    Done,
    Hello,
    ModelOffer,
    Request,
    ServerCall,
    serve_infer,
)
from r3mes.p2p.streams import FrameStream

pytestmark = pytest.mark.net

HELLO = Hello(b"epoch678", b"binding", (ModelOffer("m", ModelHash(b"h" * 32), 99, 1, 2),), "dev")


class Counting:
    """Writes numbers until it is told to stop."""

    def __init__(self, count: int, pause_s: float = 0.0) -> None:
        self._count, self._pause_s = count, pause_s
        self.receipt: bytes | None = None
        self.traces: list[str] = []
        self.cancelled = 0
        self.ended = trio.Event()
        self.ten_cancelled = trio.Event()

    def hello(self) -> Hello:
        return HELLO

    async def answer(self, request: Request, call: ServerCall) -> None:
        self.traces.append(request.trace)
        try:
            await call.accept((1, 2, 3))
            for n in range(self._count):
                if call.cancelled.is_set():
                    break
                await call.tokens((n,), f"{n} ")
                await trio.sleep(self._pause_s)
            self.receipt = await call.done(b"result", b"signature")
            self.ended.set()
        except trio.Cancelled:
            self.cancelled += 1
            if self.cancelled == 10:
                self.ten_cancelled.set()
            raise


def serve(
    host: Host, service: Counting, protocol: str = INFER, older: Sequence[str] = (INFER_1_0,)
) -> None:
    async def handler(stream: FrameStream) -> None:
        await serve_infer(stream, service)

    host.serve(protocol, handler, older=older)


async def test_an_answer_from_hello_to_receipt(pair: tuple[Host, Host]) -> None:
    a, b = pair
    service = Counting(500)
    serve(b, service)
    with trio.fail_after(20):
        async with ClientCall(await a.open_stream(b.peer_id, INFER)) as call:
            assert await call.hello() == HELLO
            await call.request(b"envelope" * 20_000)
            ids = [i async for tokens in call.tokens() for i in tokens.ids]
            assert await call.done() == Done(b"result", b"signature")
            await call.receipt(b"countersignature")
        assert ids == list(range(500))
        await service.ended.wait()
        assert service.receipt == b"countersignature"


@pytest.mark.parametrize(
    ("server", "gateway", "told"),
    [
        ([INFER, INFER_1_0], [INFER, INFER_1_0], "trace"),
        ([INFER_1_1, INFER_1_0], [INFER, INFER_1_1, INFER_1_0], "trace"),
        ([INFER_1_0], [INFER, INFER_1_0], ""),  # an old server
        ([INFER, INFER_1_0], [INFER_1_0], ""),  # an old gateway
    ],
)
async def test_versions_find_each_other_and_only_the_new_one_carries_a_trace(
    pair: tuple[Host, Host], server: list[str], gateway: list[str], told: str
) -> None:
    a, b = pair
    service = Counting(3)
    serve(b, service, server[0], server[1:])
    with trio.fail_after(20):
        stream = await a.open_stream(b.peer_id, gateway[0], older=gateway[1:])
        assert stream.protocol == next(one for one in gateway if one in server)
        async with ClientCall(stream) as call:
            assert call.takes_later_jobs == (stream.protocol == INFER)
            assert await call.hello() == HELLO
            await call.request(b"envelope", trace="trace")
            await call.done()
    assert service.traces == [told]


async def test_answers_given_up_leave_the_connection_alive(pair: tuple[Host, Host]) -> None:
    a, b = pair
    service = Counting(10_000, pause_s=0.001)
    serve(b, service)
    (connection,) = a.peers()

    async def give_up(after_s: float) -> None:
        with trio.move_on_after(after_s):
            async with ClientCall(await a.open_stream(b.peer_id, INFER)) as call:
                await call.hello()
                await call.request(b"envelope")
                await call.done()

    async def give_up_after_tokens(count: int) -> None:
        async with ClientCall(await a.open_stream(b.peer_id, INFER)) as call:
            await call.hello()
            await call.request(b"envelope")
            async for tokens in call.tokens():
                if tokens.ids[-1] >= count:
                    return

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(give_up, 0.01 * n)
            for n in range(10):  # these are surely being answered, however slow the machine is
                nursery.start_soon(give_up_after_tokens, n)
        async with ClientCall(await a.open_stream(b.peer_id, INFER)) as call:
            assert await call.hello() == HELLO
        assert [one.since for one in a.peers()] == [connection.since]  # its round trip may change
        await service.ten_cancelled.wait()


async def test_a_peer_that_closes_ends_the_answer(pair: tuple[Host, Host]) -> None:
    a, b = pair
    serve(b, Counting(10_000, pause_s=0.001))
    with trio.fail_after(20):
        async with ClientCall(await a.open_stream(b.peer_id, INFER)) as call:
            await call.hello()
            await call.request(b"envelope")
            assert await call.next_tokens() is not None
            await b.disconnect(a.peer_id)
            with pytest.raises(PeerDisconnected):
                await call.done()
        await a.wait_closed(b.peer_id)


async def test_streams_over_the_limit_wait_for_a_place(pair: tuple[Host, Host]) -> None:
    a, b = pair
    serve(b, Counting(1))
    with trio.fail_after(30):
        streams = [await a.open_stream(b.peer_id, INFER) for _ in range(64)]
        with pytest.raises(PeerUnreachable, match=r"within 0\.1 s"):
            await a.open_stream(b.peer_id, INFER, timeout=0.1)
        for stream in streams:
            await stream.aclose()
        async with ClientCall(await a.open_stream(b.peer_id, INFER)) as call:
            assert await call.hello() == HELLO
