"""The protocol of one answer, over two stapled ends in memory and virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from r3mes.errors import (
    AlreadyAnswered,
    EngineCrashed,
    NetworkError,
    Overloaded,
    PeerDisconnected,
    WireError,
)
from r3mes.ids import ModelHash, PeerId
from r3mes.p2p.protocols.infer import (
    INFER,
    INFER_1_0,
    INFER_1_1,
    Accepted,
    Cancel,
    ClientCall,
    Credit,
    Done,
    Hello,
    ModelOffer,
    Patience,
    Receipt,
    Request,
    ServerCall,
    Tokens,
    TurnedDown,
    decode,
    encode,
    serve_infer,
)
from r3mes.p2p.protocols.infer.messages import FRAME_TEXT_CAP
from r3mes.p2p.streams import FrameStream, staple

GATEWAY, SERVER = PeerId("gateway"), PeerId("server")
HELLO = Hello(b"epoch678", b"binding", (ModelOffer("m", ModelHash(b"h" * 32), 99, 1, 2),), "dev")

Answer = Callable[[Request, ServerCall], Awaitable[None]]


class Service:
    """Answers with a function and keeps what became of it."""

    def __init__(self, answer: Answer) -> None:
        self._answer, self.greeting = answer, HELLO
        self.countersignature: bytes | None = None
        self.cancelled = False

    def hello(self) -> Hello:
        return self.greeting

    async def answer(self, request: Request, call: ServerCall) -> None:
        try:
            await self._answer(request, call)
        except trio.Cancelled:
            self.cancelled = True
            raise


def ten_words(count: int = 10, pause_s: float = 0.01) -> Service:
    async def answer(request: Request, call: ServerCall) -> None:
        assert request == Request(b"envelope", b"delegation")
        await call.accept((1, 2, 3))
        for n in range(count):
            if call.cancelled.is_set():
                break
            await call.tokens((n,), f"{n} ")
            await trio.sleep(pause_s)
        service.countersignature = await call.done(b"result", b"signature")

    service = Service(answer)
    return service


@asynccontextmanager
async def serving(service: Service, protocol: str = INFER) -> AsyncIterator[FrameStream]:
    near, far = staple(GATEWAY, SERVER, protocol)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_infer, far, service)
        yield near


async def ask(call: ClientCall) -> list[Tokens]:
    assert await call.hello() == HELLO
    assert await call.request(b"envelope", b"delegation") == Accepted((1, 2, 3))
    return [tokens async for tokens in call.tokens()]


async def test_an_answer_from_hello_to_receipt(autojump_clock: trio.abc.Clock) -> None:
    service = ten_words()
    async with serving(service) as stream, ClientCall(stream) as call:
        frames = await ask(call)
        assert await call.done() == Done(b"result", b"signature")
        await call.receipt(b"countersignature")
    assert [i for frame in frames for i in frame.ids] == list(range(10))
    assert "".join(frame.text for frame in frames) == "0 1 2 3 4 5 6 7 8 9 "
    assert service.countersignature == b"countersignature"


@pytest.mark.parametrize("protocol", [INFER, INFER_1_1, INFER_1_0])
async def test_adapters_are_offered_to_those_alone_who_can_read_their_names(
    autojump_clock: trio.abc.Clock, protocol: str
) -> None:
    adapter = ModelOffer("m:a", ModelHash(b"a" * 32), 99, 1, 2)
    service = ten_words(1)
    service.greeting = replace(HELLO, models=(*HELLO.models, adapter))
    async with serving(service, protocol) as stream:
        hello = decode(await stream.receive() or b"")
        await stream.finish()
    assert isinstance(hello, Hello)
    names = [offer.name for offer in hello.models]
    assert names == (["m", "m:a"] if protocol == INFER else ["m"])


async def test_tokens_are_gathered_but_the_first_leaves_at_once(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving(ten_words()) as stream, ClientCall(stream) as call:
        frames = await ask(call)
    assert frames[0].ids == (0,)
    assert 3 <= len(frames) <= 6


async def test_a_thousand_frames_pass_through_the_credit(autojump_clock: trio.abc.Clock) -> None:
    async with serving(ten_words(1000, pause_s=0.05)) as stream, ClientCall(stream) as call:
        frames = await ask(call)
    assert len(frames) == 1000


async def test_a_reader_that_stops_holds_the_writer(autojump_clock: trio.abc.Clock) -> None:
    written = 0

    async def answer(request: Request, call: ServerCall) -> None:
        nonlocal written
        await call.accept(())
        while True:
            await call.tokens((1,), "x")
            written += 1
            await trio.sleep(0.001)

    service = Service(answer)
    async with serving(service) as stream, ClientCall(stream) as call:
        await call.hello()
        await call.request(b"")
        await trio.sleep(30)
        assert written < 3000
        before = written
        await trio.sleep(10)
        assert written == before
        await trio.sleep(60)
        assert service.cancelled  # no credit for a minute: it counts as gone


async def test_gathered_text_over_the_cap_is_spread(autojump_clock: trio.abc.Clock) -> None:
    text = "🦜" * (FRAME_TEXT_CAP // 4 + 5)

    async def answer(request: Request, call: ServerCall) -> None:
        await call.accept((1, 2, 3))
        await call.tokens((7, 8, 9), text)
        await call.done(b"result", b"signature")

    async with serving(Service(answer)) as stream, ClientCall(stream) as call:
        tokens = await ask(call)
        await call.receipt(b"counter")
    assert [frame.ids for frame in tokens] == [(7,), (8, 9)]
    assert "".join(frame.text for frame in tokens) == text


async def test_hello_alone_is_a_call(autojump_clock: trio.abc.Clock) -> None:
    async with serving(ten_words()) as stream, ClientCall(stream) as call:
        assert await call.hello() == HELLO


async def test_a_refusal_comes_as_its_class(autojump_clock: trio.abc.Clock) -> None:
    async def answer(request: Request, call: ServerCall) -> None:
        raise Overloaded("8 wait", retry_after_s=2.5)

    async with serving(Service(answer)) as stream, ClientCall(stream) as call:
        with pytest.raises(Overloaded, match="8 wait") as caught:
            await ask(call)
    assert caught.value.retry_after_s == 2.5


async def test_a_refusal_brings_the_receipt_along(autojump_clock: trio.abc.Clock) -> None:
    async def answer(request: Request, call: ServerCall) -> None:
        call.refusal_receipt = b"receipt"
        raise AlreadyAnswered

    async with serving(Service(answer)) as stream, ClientCall(stream) as call:
        with pytest.raises(AlreadyAnswered):
            await ask(call)
        assert call.refusal_receipt == b"receipt"


async def test_a_failure_ends_the_tokens(autojump_clock: trio.abc.Clock) -> None:
    async def answer(request: Request, call: ServerCall) -> None:
        await call.accept((1, 2, 3))
        await call.tokens((1,), "x")
        raise ExceptionGroup("nursery", [EngineCrashed("worker died")])

    async with serving(Service(answer)) as stream, ClientCall(stream) as call:
        with pytest.raises(EngineCrashed, match="worker died"):
            await ask(call)


async def test_a_crash_of_the_service_is_told_without_its_words(
    autojump_clock: trio.abc.Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(request: Request, call: ServerCall) -> None:
        raise RuntimeError("secret")

    async with serving(Service(answer)) as stream, ClientCall(stream) as call:
        with pytest.raises(NetworkError, match="incident") as caught:
            await ask(call)
    assert "secret" not in str(caught.value)
    assert "secret" in caplog.text


async def test_leaving_early_stops_the_server(autojump_clock: trio.abc.Clock) -> None:
    service = ten_words(1000)
    async with serving(service) as stream:
        async with ClientCall(stream) as call:
            await call.hello()
            await call.request(b"envelope", b"delegation")
            async for _tokens in call.tokens():
                break
    assert service.cancelled


async def test_cancel_ends_with_what_was_written(autojump_clock: trio.abc.Clock) -> None:
    service = ten_words(1000)
    async with serving(service) as stream, ClientCall(stream) as call:
        await call.hello()
        await call.request(b"envelope", b"delegation")
        ids: list[int] = []
        async for tokens in call.tokens():
            ids += tokens.ids
            if len(ids) > 5:
                break
        await call.cancel()
        async for tokens in call.tokens():
            ids += tokens.ids
        await call.done()
        await call.receipt(b"c")
    assert ids == list(range(len(ids)))
    assert len(ids) < 100
    assert service.countersignature == b"c"
    assert not service.cancelled


async def test_the_end_can_be_read_in_a_shielded_block_after_a_cancel(
    autojump_clock: trio.abc.Clock,
) -> None:
    service = ten_words(1000)
    async with serving(service) as stream:
        with trio.move_on_after(1):
            async with ClientCall(stream) as call:
                try:
                    await ask(call)
                finally:
                    with trio.CancelScope(shield=True):
                        await call.cancel()
                        assert await call.done() == Done(b"result", b"signature")
                        await call.receipt(b"c")
    assert service.countersignature == b"c"


class CutAtCredit:
    """A stream under whose reader a cancel comes as it gives credit."""

    def __init__(self, stream: FrameStream, scope: trio.CancelScope) -> None:
        self._stream, self._scope = stream, scope
        self.peer, self.protocol, self.receive = stream.peer, stream.protocol, stream.receive
        self.finish, self.aclose = stream.finish, stream.aclose

    async def send(self, frame: bytes) -> None:
        if isinstance(decode(frame), Credit):
            self._scope.cancel()
        await self._stream.send(frame)


async def test_a_cancel_while_credit_is_given_loses_no_tokens(
    autojump_clock: trio.abc.Clock,
) -> None:
    ids: list[int] = []
    scope = trio.CancelScope()
    async with (
        serving(ten_words(30, pause_s=0.05)) as stream,
        ClientCall(CutAtCredit(stream, scope)) as call,
    ):
        await call.hello()
        await call.request(b"envelope", b"delegation")
        with scope:
            async for tokens in call.tokens():
                ids += tokens.ids
        assert scope.cancelled_caught
        async for tokens in call.tokens():
            ids += tokens.ids
    assert ids == list(range(30))


async def test_a_receipt_that_never_comes_is_not_waited_for_long(
    autojump_clock: trio.abc.Clock,
) -> None:
    service = ten_words()
    started = trio.current_time()
    async with serving(service) as stream:
        async with ClientCall(stream) as call:
            await ask(call)
    assert service.countersignature is None
    assert trio.current_time() - started < 10


async def test_a_server_that_is_silent_counts_as_gone(autojump_clock: trio.abc.Clock) -> None:
    near, _far = staple(GATEWAY, SERVER, INFER)
    async with ClientCall(near) as call:
        with pytest.raises(PeerDisconnected, match="silent for 5 s"):
            await call.hello()


async def test_a_long_prompt_is_given_time_to_be_read(autojump_clock: trio.abc.Clock) -> None:
    async def answer(request: Request, call: ServerCall) -> None:
        await call.accept(tuple(range(10_000)))
        await trio.sleep(500)
        await call.tokens((1,), "x")
        await trio.sleep_forever()

    async with serving(Service(answer)) as stream, ClientCall(stream) as call:
        await call.hello()
        assert len((await call.request(b"envelope")).prompt_ids) == 10_000
        tokens = await call.next_tokens()
        assert tokens is not None
        assert tokens.ids == (1,)
        with pytest.raises(PeerDisconnected, match="silent for 15 s"):
            await call.next_tokens()


async def test_a_short_prompt_is_not_waited_for_long(autojump_clock: trio.abc.Clock) -> None:
    async def answer(request: Request, call: ServerCall) -> None:
        await call.accept(tuple(range(100)))
        await trio.sleep_forever()

    async with serving(Service(answer)) as stream, ClientCall(stream) as call:
        await call.hello()
        await call.request(b"envelope")
        with pytest.raises(PeerDisconnected, match="silent for 35 s"):
            await call.next_tokens()


async def test_a_stalled_answer_counts_as_gone(autojump_clock: trio.abc.Clock) -> None:
    async def answer(request: Request, call: ServerCall) -> None:
        await call.accept((1, 2, 3))
        await call.tokens((1,), "x")
        await trio.sleep_forever()

    service = Service(answer)
    async with serving(service) as stream, ClientCall(stream, patience=Patience(token_s=3)) as call:
        with pytest.raises(PeerDisconnected, match="silent for 3 s"):
            await ask(call)
    assert service.cancelled


async def test_a_gateway_that_is_silent_is_let_go(autojump_clock: trio.abc.Clock) -> None:
    near, far = staple(GATEWAY, SERVER, INFER)
    started = trio.current_time()
    await serve_infer(far, ten_words())
    assert trio.current_time() - started == 10
    await near.aclose()


@pytest.mark.parametrize(
    "frames",
    [
        [Tokens(0, (), "")],
        [HELLO, HELLO],
        [HELLO, Done(b"", b"")],
        [HELLO, Request(b"")],
        [HELLO, Accepted(()), Accepted(())],
        [HELLO, Accepted(()), Tokens(7, (1,), "x")],
        [HELLO, Accepted(()), *[Tokens(n, (1,), "x") for n in range(33)]],
        [HELLO, Accepted(()), Tokens(0, (1, 2), "x", (b"one",))],
        [HELLO, Accepted(()), Tokens(0, (), "x", (b"one",))],
        [HELLO, Accepted(()), Tokens(0, (1,) * 129, "x", (b"one",) * 129)],
        [HELLO, Accepted(()), Tokens(0, (1,), "x", (b"x" * 6145,))],
        [HELLO, Accepted(()), Credit(3)],
        [HELLO, *[TurnedDown("x", "y")] * 99],
    ],
)
async def test_a_server_out_of_turn(frames: list[Hello], autojump_clock: trio.abc.Clock) -> None:
    near, far = staple(GATEWAY, SERVER, INFER)

    async def server() -> None:
        try:
            for frame in frames:
                await far.send(encode(frame))
            await trio.sleep(1)
        except PeerDisconnected:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        async with ClientCall(near) as call:
            with pytest.raises((WireError, NetworkError)):
                await call.hello()
                await call.request(b"")
                await trio.sleep(0.5)
                async for _tokens in call.tokens():
                    pass


@pytest.mark.parametrize(
    "frames",
    [
        [Request(b"envelope", b"delegation"), Request(b"")],
        [Request(b"envelope", b"delegation"), Receipt(b"")],
        [Request(b"envelope", b"delegation"), Credit(0)],
        [Request(b"envelope", b"delegation"), Credit(33)],
        [Request(b"envelope", b"delegation"), HELLO],
    ],
)
async def test_a_gateway_out_of_turn_ends_its_answer(
    frames: list[Request], autojump_clock: trio.abc.Clock
) -> None:
    service = ten_words(1000)
    async with serving(service) as stream:
        for frame in frames:
            await stream.send(encode(frame))
        with pytest.raises(PeerDisconnected):
            while await stream.receive() is not None:
                pass
    assert service.cancelled


@pytest.mark.parametrize("frame", [b"", b"\x00", b"garbage", encode(Cancel()), encode(HELLO)])
async def test_nonsense_for_a_request_is_turned_down(
    frame: bytes, autojump_clock: trio.abc.Clock
) -> None:
    async with serving(ten_words()) as stream:
        await stream.receive()
        await stream.send(frame)
        answer = await stream.receive()
        assert answer is not None
        told = decode(answer)
        assert isinstance(told, TurnedDown)
        assert told.code == WireError.kind.code


async def test_text_without_tokens_comes_once_and_last(autojump_clock: trio.abc.Clock) -> None:
    async def answer(request: Request, call: ServerCall) -> None:
        await call.accept(())
        for _ in range(2):  # what cost nobody anything could go on for ever
            await call.tokens((), "for nothing")
            await trio.sleep(1)
        await call.done(b"", b"")

    read = 0
    async with serving(Service(answer)) as stream, ClientCall(stream) as call:
        await call.hello()
        await call.request(b"")
        with pytest.raises(WireError, match="rest of the text"):
            async for _tokens in call.tokens():
                read += 1
    assert read == 1


async def test_an_answer_cut_before_its_end_is_no_answer(autojump_clock: trio.abc.Clock) -> None:
    near, far = staple(GATEWAY, SERVER, INFER)

    async def server() -> None:
        for frame in (HELLO, Accepted(()), Tokens(0, (1,), "x")):
            await far.send(encode(frame))
        await far.finish()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        async with ClientCall(near) as call:
            await call.hello()
            await call.request(b"")
            with pytest.raises(PeerDisconnected):
                await call.done()


async def test_a_service_without_an_end_is_a_failure(autojump_clock: trio.abc.Clock) -> None:
    async def answer(request: Request, call: ServerCall) -> None:
        await call.accept((1, 2, 3))

    async with serving(Service(answer)) as stream, ClientCall(stream) as call:
        with pytest.raises(NetworkError, match="internal_error"):
            await ask(call)
