"""Gateway and serving node over a stapled stream: real signatures, real store, scripted engine."""

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from r3mes.actors.active import Active
from r3mes.actors.candidates import Candidate
from r3mes.actors.doorway import Doorway
from r3mes.actors.gateway import ChatRequest, Gateway
from r3mes.actors.ledger import Ledger, Receipt
from r3mes.actors.observing import (
    Ended,
    EnvelopeRefusal,
    Event,
    FailedOver,
    Queued,
    Receipted,
    Routed,
)
from r3mes.actors.requests.binding import bind
from r3mes.actors.requests.envelope import RequestVerifier, sign_request
from r3mes.actors.requests.job import InferJob
from r3mes.actors.requests.logprobs import Logprob, encode_record
from r3mes.actors.requests.receipt import verify_countersignature, verify_result
from r3mes.actors.requests.replay import ReplayGuard
from r3mes.actors.serving import Serving
from r3mes.actors.store import Store, open_store
from r3mes.chain.keys.wallet import Wallet
from r3mes.errors import (
    AlreadyAnswered,
    AskTimeout,
    ContextLengthExceeded,
    EngineCrashed,
    EnvelopeRefused,
    ModelNotFound,
    NetworkError,
    NoPeer,
    NotReady,
    Overloaded,
    PeerTooOld,
    PeerUnreachable,
    PriceExceeded,
    R3mesError,
    RequestCancelled,
    StoreBusy,
    StoreFull,
    WireError,
)
from r3mes.ids import Address, ModelHash, PeerId, RequestHash
from r3mes.node.otel import OtelTracer, provider
from r3mes.p2p.identity import NodeKey
from r3mes.p2p.protocols.infer import INFER, INFER_1_1, ClientCall, Hello, ModelOffer, serve_infer
from r3mes.p2p.streams import FrameStream, staple
from r3mes.p2p.wire import unpack

ALICE = PeerId("alice")
CHAIN = "r3mes-test-1"
ALICE = PeerId("alice")
OFFER = ModelOffer("tiny", ModelHash(b"m" * 32), 64, 1_000_000, 2_000_000)
WORDS = ("one", " two", " three", " four")


@dataclasses.dataclass
class Chunk:
    ids: tuple[int, ...]
    text: str
    logprobs: tuple[bytes, ...] = ()


class ScriptedGeneration:
    """Writes `WORDS`, and then does what the test wants to happen."""

    def __init__(
        self,
        prompt_ids: tuple[int, ...],
        then: Callable[[], Awaitable[None]] | None,
        records: tuple[bytes, ...] = (),
    ) -> None:
        self.prompt_ids, self._records = prompt_ids, records
        self.output_ids: tuple[int, ...] = ()
        self.finish_reason, self.queue_s, self.calls = "", 0.25, ""
        self._then, self._writing = then, trio.CancelScope()

    def cancel(self) -> None:
        self._writing.cancel()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        for number, word in enumerate(WORDS):
            self.output_ids += (number,)
            yield Chunk((number,), word, self._records)
        if self._then is not None:
            with self._writing:
                await self._then()
        self.finish_reason = "cancelled" if self._writing.cancelled_caught else "stop"


class ScriptedEngine:
    def __init__(self) -> None:
        self.prompt_ids: tuple[int, ...] = (1, 2, 3)
        self.jobs: list[tuple[InferJob, int | None]] = []
        self.refusal: R3mesError | None = None
        self.full = False
        self.unasked: tuple[bytes, ...] = ()
        self.calls = ""
        self.then: Callable[[], Awaitable[None]] | None = None

    def check_room(self, model: str, deadline_s: float) -> None:
        if self.full:
            raise Overloaded("16 wait already", retry_after_s=2.5)

    @asynccontextmanager
    async def generate(
        self, model: str, job: InferJob, *, max_tokens: int | None, deadline_s: float
    ) -> AsyncIterator[ScriptedGeneration]:
        self.jobs.append((job, max_tokens))
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal
        entries = [Logprob(b"one", -0.5), Logprob(b"two", -1.5)][: job.logprobs]
        records = (encode_record(entries),) if job.logprobs else self.unasked
        generation = ScriptedGeneration(self.prompt_ids, self.then, records)
        generation.calls = self.calls
        yield generation


class Server:
    """A serving node without a network."""

    def __init__(self, store: Store, now_ms: Callable[[], int]) -> None:
        self.spans = InMemorySpanExporter()
        self.key, self.wallet, self.engine = NodeKey(b"s" * 32), Wallet.create(), ScriptedEngine()
        self.peer, self.epoch = self.key.peer_id, b"epoch-01"
        self.offers: tuple[ModelOffer, ...] = (OFFER,)
        self.ledger = Ledger(store, now_ms=now_ms)
        self.doorway, self.told = Doorway("requests of peers"), list[Event]()
        self.active = Active()
        self.serving = Serving(
            own=self.peer,
            hello=self.hello,
            verifier=RequestVerifier(
                chain=CHAIN,
                audience=self.peer,
                epoch=self.epoch,
                models=lambda model: model == OFFER.hash,
                now_ms=now_ms,
                guard=ReplayGuard(now_ms),
            ),
            engine=self.engine,
            ledger=self.ledger,
            wallet=self.wallet,
            now_ms=now_ms,
            doorway=self.doorway,
            active=self.active,
            tell=self.told.append,
            tracer=tracer(self.spans, self.peer),
        )

    def hello(self) -> Hello:
        return Hello(self.epoch, bind(self.wallet, self.key), self.offers, CHAIN)

    async def doorway_empty(self) -> None:
        while self.doorway.inside:
            await trio.lowlevel.checkpoint()

    def candidate(self, *, wallet: Address | None = None) -> Candidate:
        return Candidate(self.peer, wallet or self.wallet.address, OFFER)


class Net:
    """Connects the gateway to servers by stapled streams; scripted routes."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery, self.own = nursery, ALICE
        self.servers: dict[PeerId, Server] = {}
        self.found: list[Candidate] = []
        self.outcomes: list[tuple[PeerId, bool]] = []
        self.full: set[PeerId] = set()
        self.tamper: Callable[[FrameStream], FrameStream] = lambda stream: stream
        self.protocols: dict[PeerId, str] = {}

    def add(self, server: Server) -> None:
        self.servers[server.peer] = server
        self.found.append(server.candidate())

    async def candidates(self, model: str) -> Sequence[Candidate]:
        if not self.found:
            raise ModelNotFound(model)
        return self.found

    async def offers(self) -> Sequence[Candidate]:
        return self.found

    def check_room(self, candidate: Candidate, patience_s: float) -> None:
        if candidate.peer in self.full:
            raise Overloaded("16 wait already", retry_after_s=2.5)

    def ended(self, peer: PeerId, *, ok: bool) -> None:
        self.outcomes.append((peer, ok))

    @asynccontextmanager
    async def connect(self, peer: PeerId) -> AsyncIterator[FrameStream]:
        if peer not in self.servers:
            raise PeerUnreachable(f"{peer} is not there")
        near, far = staple(self.own, peer, self.protocols.get(peer, INFER))
        self._nursery.start_soon(serve_infer, far, self.servers[peer].serving)
        try:
            yield self.tamper(near)
        finally:
            await near.aclose()


class World:
    def __init__(self, nursery: trio.Nursery, alice: Store, bob: Store) -> None:
        self.now = 1_800_000_000_000
        self.net = Net(nursery)
        self.bob = Server(bob, self.now_ms)
        self.net.add(self.bob)
        self.wallet = Wallet.create()
        self.ledger = Ledger(alice, now_ms=self.now_ms)
        self.doorway, self.told = Doorway("requests"), list[Event]()
        self.active = Active()
        self.spans = InMemorySpanExporter()
        self.gateway = self.make_gateway()

    def now_ms(self) -> int:
        return self.now

    def make_gateway(
        self, max_price: int = 10**9, clock_ms: int = 0, own: PeerId = ALICE
    ) -> Gateway:
        return Gateway(
            own=own,
            connect=self.net.connect,
            routes=self.net,
            wallet=self.wallet,
            ledger=self.ledger,
            chain_id=CHAIN,
            max_price=max_price,
            now_ms=lambda: self.now + clock_ms,
            doorway=self.doorway,
            active=self.active,
            tell=self.told.append,
            tracer=tracer(self.spans, own),
        )


def tracer(spans: InMemorySpanExporter, own: PeerId) -> OtelTracer:
    return OtelTracer(provider(SimpleSpanProcessor(spans), own), 1.0, Random(1))  # noqa: S311


@pytest.fixture
async def world(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[World]:
    async with open_store(tmp_path / "alice") as alice, open_store(tmp_path / "bob") as bob:
        with trio.fail_after(20):
            yield World(nursery, alice, bob)


def request(**fields: object) -> ChatRequest:
    messages: Sequence[Mapping[str, object]] = [{"role": "user", "content": "count"}]
    return dataclasses.replace(ChatRequest("tiny", messages), **fields)  # type: ignore[arg-type]


async def test_an_answer_is_written_signed_and_receipted_on_both_sides(world: World) -> None:
    async with world.gateway.complete(request(max_tokens=9)) as answer:
        text = "".join([delta async for delta in answer])
    assert (text, answer.finish_reason) == ("one two three four", "stop")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cost_uremes) == (3, 4, 11)
    assert answer.signature_verified
    assert answer.receipt_verified
    assert world.net.outcomes == [(world.bob.peer, True)]
    (ours,) = await world.ledger.page()
    assert ours.request_hash.hex() == answer.receipt_id
    theirs = await countersigned(world)
    assert theirs.countersignature is not None
    assert (ours.result, ours.signature) == (theirs.result, theirs.signature)
    verify_result(ours.result, ours.signature, wallet=world.bob.wallet.address)
    verify_countersignature(
        theirs.result, theirs.signature, theirs.countersignature, sub=world.wallet.address
    )


async def countersigned(world: World) -> Receipt:
    while True:
        for receipt in await world.bob.ledger.page():
            if receipt.countersignature is not None:
                return receipt
        await trio.lowlevel.checkpoint()


async def test_max_tokens_of_none_means_as_many_as_fit(world: World) -> None:
    async with world.gateway.complete(request()) as answer:
        assert [delta async for delta in answer]
    assert [cap for _job, cap in world.bob.engine.jobs] == [None]


async def test_leaving_early_cancels_and_keeps_the_receipt_of_what_was_written(
    world: World,
) -> None:
    world.bob.engine.then = trio.sleep_forever
    async with world.gateway.complete(request()) as answer:
        async for _delta in answer:
            break
    (ours,) = await world.ledger.page()
    assert (ours.status, ours.completion_tokens) == ("cancelled", len(WORDS))
    assert (await countersigned(world)).result == ours.result


async def test_a_cancelled_application_leaves_a_receipt_too(world: World) -> None:
    world.bob.engine.then = trio.sleep_forever
    with trio.CancelScope() as scope:
        async with world.gateway.complete(request()) as answer:
            async for _delta in answer:
                scope.cancel()
    (ours,) = await world.ledger.page()
    assert ours.status == "cancelled"


async def test_an_application_that_leaves_during_the_last_step_leaves_a_receipt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = world.ledger.record
    with trio.CancelScope() as scope:

        async def leave(receipt: Receipt) -> None:
            scope.cancel()
            await record(receipt)

        monkeypatch.setattr(world.ledger, "record", leave)
        async with world.gateway.complete(request()) as answer:
            assert [delta async for delta in answer]
    (ours,) = await world.ledger.page()
    assert (await countersigned(world)).result == ours.result


async def test_the_next_candidate_is_taken_when_one_cannot(world: World) -> None:
    gone = Candidate(NodeKey(b"g" * 32).peer_id, world.wallet.address, OFFER)
    world.net.found.insert(0, gone)
    async with world.gateway.complete(request()) as answer:
        assert [delta async for delta in answer]
    assert world.net.outcomes == [(gone.peer, False), (world.bob.peer, True)]


@pytest.mark.parametrize("refusal", [PriceExceeded("too dear"), EnvelopeRefused("the clock")])
async def test_prices_and_clock_of_one_candidate_are_not_those_of_the_next(
    world: World, refusal: R3mesError
) -> None:
    world.net.add(world.bob)
    world.bob.engine.refusal = refusal
    async with world.gateway.complete(request()) as answer:
        assert [delta async for delta in answer]
    assert [ok for _peer, ok in world.net.outcomes] == [False, True]


async def test_all_gone_is_told_with_the_reasons(world: World) -> None:
    world.net.servers.clear()
    with pytest.raises(NoPeer, match="is not there"):
        async with world.gateway.complete(request()):
            pass


@pytest.mark.parametrize(
    "refusal",
    [
        ContextLengthExceeded("the prompt has 70 tokens, tiny takes 64"),
        Overloaded("16 wait already", retry_after_s=2.5),
    ],
)
async def test_a_refusal_arrives_as_itself_and_the_job_may_come_again(
    world: World, refusal: R3mesError
) -> None:
    world.bob.engine.refusal = refusal
    with pytest.raises(type(refusal)) as told:
        async with world.gateway.complete(request()):
            pass
    assert told.value.detail.endswith(refusal.detail)
    assert told.value.retry_after_s == refusal.retry_after_s
    async with world.gateway.complete(request()) as answer:
        assert [delta async for delta in answer]


async def test_a_full_server_refuses_before_it_takes_the_job(world: World) -> None:
    def not_taken(*_: object) -> None:
        raise AssertionError("the store was asked")

    world.bob.engine.full, world.bob.ledger.open_job = True, not_taken  # type: ignore[method-assign,assignment]
    with pytest.raises(Overloaded):
        async with world.gateway.complete(request()):
            pass
    assert world.bob.engine.jobs == []


async def test_who_is_known_to_be_full_is_not_even_asked(world: World) -> None:
    world.net.full.add(world.bob.peer)
    del world.net.servers[world.bob.peer]  # nobody to connect to
    with pytest.raises(Overloaded) as told:
        async with world.gateway.complete(request()):
            pass
    assert told.value.retry_after_s == 2.5


@pytest.mark.parametrize(("own", "expected"), [(True, StoreFull), (False, NoPeer)])
async def test_only_this_node_may_say_that_our_disk_is_full(
    world: World, own: bool, expected: type[R3mesError]
) -> None:
    world.bob.engine.refusal = StoreFull("no space is left for it")
    gateway = world.make_gateway(own=world.bob.peer if own else ALICE)
    with pytest.raises(expected, match="no space is left for it"):
        async with gateway.complete(request()):
            pass


async def test_a_crash_after_the_first_token_ends_the_answer_with_its_name(world: World) -> None:
    async def crash() -> None:
        raise EngineCrashed("the worker was killed")

    world.bob.engine.then = crash
    with pytest.raises(EngineCrashed, match="killed"):
        async with world.gateway.complete(request()) as answer:
            assert [delta async for delta in answer]
    assert await world.ledger.page() == []
    assert await world.bob.ledger.drop_unfinished() == 0


async def test_requests_under_way_are_listed_and_one_is_cancelled_by_its_id(world: World) -> None:
    world.bob.engine.then = trio.sleep_forever
    with pytest.raises(RequestCancelled, match="mine"):
        async with world.gateway.complete(request(request_id="mine", key_id="k1")) as answer:
            assert await anext(answer)
            (ours,), (theirs,) = world.active.all(), world.bob.active.all()
            assert (ours.request_id, ours.source, ours.state) == ("mine", "api", "running")
            assert (theirs.source, theirs.model, theirs.prompt_tokens) == ("peer", "tiny", 3)
            assert not world.active.cancel("other", key_id=None)
            assert not world.active.cancel("mine", key_id="k2")
            assert not world.bob.active.cancel(theirs.request_id, key_id=None)
            assert world.active.cancel("mine", key_id="k1")
            async for _ in answer:
                pass
    assert world.active.all() == []
    (receipt,) = await world.ledger.page()
    assert receipt.status == "cancelled"
    ended = [event for event in world.told if isinstance(event, Ended)]
    assert [event.outcome for event in ended] == ["cancelled"]


async def test_an_explicit_max_tokens_over_the_context_is_refused_here(world: World) -> None:
    with pytest.raises(ContextLengthExceeded, match="64"):
        async with world.gateway.complete(request(max_tokens=64)):
            pass
    assert world.bob.engine.jobs == []


async def test_a_clock_ten_minutes_off_is_refused_with_the_reason(world: World) -> None:
    gateway = world.make_gateway(clock_ms=-600_000)
    with pytest.raises(EnvelopeRefused, match="clock"):
        async with gateway.complete(request()):
            pass
    assert world.bob.engine.jobs == []


async def test_more_than_the_request_allows_is_not_begun(world: World) -> None:
    with pytest.raises(PriceExceeded, match="allows 5"):
        async with world.make_gateway(max_price=5).complete(request()):
            pass


async def test_a_model_that_is_gone_from_the_hello_is_not_asked_for(world: World) -> None:
    world.bob.offers = ()
    with pytest.raises(NoPeer, match="no longer serves"):
        async with world.gateway.complete(request()):
            pass


async def test_an_end_signed_by_another_wallet_is_not_believed(world: World) -> None:
    world.net.found[:] = [world.bob.candidate(wallet=Wallet.create().address)]
    with pytest.raises(EnvelopeRefused):
        async with world.gateway.complete(request()) as answer:
            assert [delta async for delta in answer]
    assert await world.ledger.page() == []
    assert world.net.outcomes == [(world.bob.peer, False)]


async def test_the_price_in_the_hello_counts_and_not_what_was_heard_before(world: World) -> None:
    before = dataclasses.replace(OFFER, price_prompt=0)
    world.net.found[:] = [dataclasses.replace(world.bob.candidate(), offer=before)]
    async with world.gateway.complete(request()) as answer:
        assert [delta async for delta in answer]
    assert answer.cost_uremes == 11


async def test_tokens_that_the_end_does_not_cover_are_not_receipted(world: World) -> None:
    with pytest.raises(WireError, match="does not fit"):
        async with world.gateway.complete(request()) as answer:
            async for _delta in answer:
                answer.output_ids[0] = 99
    assert await world.ledger.page() == []


async def test_more_tokens_than_were_asked_for_are_neither_kept_nor_paid(world: World) -> None:
    with pytest.raises(WireError, match="more than the 2 tokens"):
        async with world.gateway.complete(request(max_tokens=2)) as answer:
            assert [delta async for delta in answer]
    assert answer.completion_tokens <= 2
    assert await world.ledger.page() == []
    assert world.net.outcomes == [(world.bob.peer, False)]


async def test_a_prompt_counted_beyond_the_context_is_not_paid(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.bob.engine, "prompt_ids", tuple(range(OFFER.context)))
    with pytest.raises(NoPeer, match="more prompt than"):
        async with world.gateway.complete(request()):
            pass
    assert await world.ledger.page() == []


async def test_a_node_that_stops_takes_nothing_new(world: World) -> None:
    world.bob.doorway.shut()
    with pytest.raises(NoPeer, match="drains"):
        async with world.gateway.complete(request()):
            pass
    world.doorway.shut()
    with pytest.raises(NotReady):
        async with world.gateway.complete(request()):
            pass


async def ask_again(world: World) -> bytes:
    """Send one and the same job; what comes along with the refusal, if it is refused for that."""
    signed = sign_request(
        world.wallet,
        chain=CHAIN,
        audience=world.bob.peer,
        epoch=world.bob.epoch,
        model=OFFER.hash,
        body=InferJob(b"[]").encode(),
        max_tokens=9,
        max_price=10**6,
        now_ms=world.now,
        idem=b"the same job 016",
    )
    async with world.net.connect(world.bob.peer) as stream, ClientCall(stream) as call:
        await call.hello()
        try:
            await call.request(signed.wire)
            await call.done()
        except AlreadyAnswered:
            return call.refusal_receipt
    return b""


async def test_the_same_job_again_is_refused_with_its_receipt(world: World) -> None:
    assert await ask_again(world) == b""
    (kept,) = await world.bob.ledger.page()
    assert unpack(await ask_again(world)) == (kept.result, kept.signature, b"")
    assert len(world.bob.engine.jobs) == 1


async def test_a_job_taken_by_a_write_that_timed_out_may_come_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = world.bob.ledger.open_job

    async def late(sub: Address, idem: bytes, request_hash: RequestHash) -> None:
        await real(sub, idem, request_hash)
        raise AskTimeout("store: no answer to Write within 5 s")

    monkeypatch.setattr(world.bob.ledger, "open_job", late)
    with pytest.raises(NetworkError, match="ask_timeout"):
        await ask_again(world)
    monkeypatch.undo()
    assert await ask_again(world) == b""
    assert len(world.bob.engine.jobs) == 1


async def test_a_job_that_the_store_refused_is_not_dropped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[bytes] = []

    async def busy(sub: Address, idem: bytes, request_hash: RequestHash) -> None:
        raise StoreBusy("locked")

    async def drop(sub: Address, idem: bytes, request_hash: RequestHash) -> None:
        dropped.append(idem)

    monkeypatch.setattr(world.bob.ledger, "open_job", busy)
    monkeypatch.setattr(world.bob.ledger, "drop_job", drop)
    with pytest.raises(NetworkError, match="store_busy"):
        await ask_again(world)
    assert dropped == []


async def test_a_store_that_fails_twice_does_not_hide_what_failed_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(sub: Address, idem: bytes, request_hash: RequestHash) -> None:
        raise StoreBusy("locked")

    monkeypatch.setattr(world.bob.ledger, "drop_job", busy)
    world.bob.engine.refusal = ContextLengthExceeded("the prompt has 70 tokens")
    with pytest.raises(ContextLengthExceeded):
        async with world.gateway.complete(request()):
            pass


async def test_a_receipt_with_a_bad_countersignature_stays_without_it(world: World) -> None:
    async with world.gateway.complete(request()) as answer:
        real = answer.call.receipt
        answer.call.receipt = lambda countersignature: real(b"\x93\xa1x\xa1y\xa1z")  # type: ignore[method-assign]
        assert [delta async for delta in answer]
    (kept,) = await world.bob.ledger.page()
    assert kept.countersignature is None
    assert kept.status == "stop"


def ended(told: Sequence[Event]) -> Ended:
    (end,) = [event for event in told if isinstance(event, Ended)]
    return end


async def test_both_sides_tell_how_an_answer_went(world: World) -> None:
    async with world.gateway.complete(request()) as answer:
        assert [delta async for delta in answer]
    await countersigned(world)
    await world.bob.doorway_empty()
    for told, source in ((world.told, "api"), (world.bob.told, "peer")):
        end = ended(told)
        assert (end.source, end.model, end.outcome, end.finish) == (source, "tiny", "ok", "stop")
        assert (end.prompt_tokens, end.completion_tokens) == (3, 4)
        assert end.first_token_s is not None
        assert 0 <= end.first_token_s <= end.seconds
    assert world.told[0] == Routed("peer")
    assert Receipted("gateway", "kept", 11) in world.told
    assert world.bob.told[0] == Queued("tiny", 0.25)
    assert Receipted("server", "kept", 11) in world.bob.told
    assert Receipted("server", "countersigned") in world.bob.told


async def test_what_a_node_pays_itself_is_not_earned(world: World) -> None:
    world.gateway = world.make_gateway(own=world.bob.peer)
    world.net.own = world.bob.peer
    async with world.gateway.complete(request()) as answer:
        assert [delta async for delta in answer]
    await countersigned(world)
    await world.bob.doorway_empty()
    assert ended(world.bob.told).source == "local"
    for told in (world.told, world.bob.told):
        assert {event.uremes for event in told if isinstance(event, Receipted)} == {0}


async def test_refusals_failures_and_leavers_are_told(world: World) -> None:
    world.bob.engine.refusal = Overloaded("full", retry_after_s=1)
    with pytest.raises(Overloaded):
        async with world.gateway.complete(request()):
            pass
    end = ended(world.told)
    assert (end.outcome, end.code, end.first_token_s) == ("refused", "overloaded", None)
    assert world.told[:2] == [FailedOver("overloaded"), Routed("none")]
    world.told.clear()
    world.bob.engine.then = trio.sleep_forever
    with trio.CancelScope() as scope:
        async with world.gateway.complete(request()) as answer:
            async for _delta in answer:
                scope.cancel()
    end = ended(world.told)
    assert (end.outcome, end.code, end.finish) == ("cancelled", "", "cancelled")
    world.told.clear()
    with pytest.raises(EnvelopeRefused):
        async with world.make_gateway(clock_ms=600_000).complete(request()):
            pass
    assert EnvelopeRefusal("clock") in world.bob.told


def tree(world: World) -> list[tuple[str, str]]:
    """Every span of both nodes under the name of its parent, in the order of their beginning."""
    spans = [*world.spans.get_finished_spans(), *world.bob.spans.get_finished_spans()]
    names = {span.context.span_id: span.name for span in spans}
    spans.sort(key=lambda span: span.start_time or 0)
    parents = [span.parent and span.parent.span_id for span in spans]
    return [
        (span.name, names[parent] if parent else "")
        for span, parent in zip(spans, parents, strict=True)
    ]


def spans_of(world: World) -> dict[str, ReadableSpan]:
    spans = [*world.spans.get_finished_spans(), *world.bob.spans.get_finished_spans()]
    return {span.name: span for span in spans}


async def test_an_answer_is_one_trace_over_both_nodes(world: World) -> None:
    async with world.gateway.complete(request(max_tokens=9)) as answer:
        assert [delta async for delta in answer]
    await world.bob.doorway_empty()
    assert sorted(tree(world)) == [
        ("r3mes.decode", "r3mes.serve"),
        ("r3mes.p2p", "r3mes.request"),
        ("r3mes.prefill", "r3mes.serve"),
        ("r3mes.queue", "r3mes.serve"),
        ("r3mes.request", ""),
        ("r3mes.route", "r3mes.request"),
        ("r3mes.serve", "r3mes.p2p"),
        ("r3mes.settle", "r3mes.p2p"),
        ("r3mes.settle", "r3mes.serve"),
    ]
    spans = spans_of(world)
    assert len({span.context.trace_id for span in spans.values()}) == 1
    assert dict(spans["r3mes.serve"].attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "tiny",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "r3mes.source": "peer",
        "r3mes.outcome": "ok",
        "r3mes.finish": "stop",
        "r3mes.first_token_s": (spans["r3mes.serve"].attributes or {})["r3mes.first_token_s"],
    }
    assert dict(spans["r3mes.p2p"].attributes or {}) == {
        "r3mes.peer": world.bob.peer,
        "r3mes.route": "peer",
    }
    assert all(span.status.is_unset for span in spans.values())


async def test_a_trace_shows_who_was_asked_in_vain_and_why(world: World) -> None:
    world.net.found.insert(0, Candidate(PeerId("gone"), world.wallet.address, OFFER))
    async with world.gateway.complete(request()) as answer:
        assert [delta async for delta in answer]
    first, second = [span for span in world.spans.get_finished_spans() if span.name == "r3mes.p2p"]
    facts = first.attributes or {}
    assert (facts["r3mes.peer"], facts["error.type"]) == ("gone", "peer_unreachable")
    assert (first.status.description, list(first.events)) == ("peer_unreachable", [])
    assert second.status.is_unset


async def test_a_trace_of_a_request_that_is_refused(world: World) -> None:
    world.bob.engine.refusal = ContextLengthExceeded("the prompt has 99 tokens")
    with pytest.raises(ContextLengthExceeded):
        async with world.gateway.complete(request()):
            pass
    await world.bob.doorway_empty()
    spans = spans_of(world)
    for name in ("r3mes.request", "r3mes.p2p", "r3mes.serve", "r3mes.queue"):
        assert (spans[name].attributes or {})["error.type"] == "context_length_exceeded"
    assert "99 tokens" not in "".join(span.to_json() for span in spans.values())


async def test_every_part_ends_when_the_application_leaves(world: World) -> None:
    world.bob.engine.then = trio.sleep_forever
    with trio.CancelScope() as scope:
        async with world.gateway.complete(request()) as answer:
            async for _delta in answer:
                scope.cancel()
    await world.bob.doorway_empty()
    spans = spans_of(world)
    assert (spans["r3mes.request"].attributes or {})["r3mes.outcome"] == "cancelled"
    assert spans.keys() == {
        f"r3mes.{name}"
        for name in ("request", "route", "p2p", "settle", "serve", "queue", "prefill", "decode")
    }


async def test_log_probabilities_come_with_the_tokens_if_asked_for(world: World) -> None:
    async with world.gateway.complete(request(logprobs=2)) as answer:
        assert [delta async for delta in answer]
    assert answer.new_logprobs() == [(Logprob(b"one", -0.5), Logprob(b"two", -1.5))] * 4
    assert answer.new_logprobs() == []
    async with world.gateway.complete(request()) as answer:
        assert [delta async for delta in answer]
    assert answer.new_logprobs() == []


async def test_log_probabilities_that_nobody_asked_for(world: World) -> None:
    world.bob.engine.unasked = (encode_record([Logprob(b"one", -0.5)]),)
    async with world.gateway.complete(request()) as answer:
        with pytest.raises(WireError, match="log-probabilities"):
            async for _ in answer:
                pass


async def test_what_is_new_is_not_asked_of_a_peer_that_does_not_know_it(world: World) -> None:
    world.net.protocols[world.bob.peer] = INFER_1_1
    with pytest.raises(PeerTooOld, match="does not know all"):
        async with world.gateway.complete(request(min_p=0.5)):
            pass
    assert (world.bob.engine.jobs, world.net.outcomes) == ([], [])
    async with world.gateway.complete(request()) as answer:
        assert [delta async for delta in answer]


async def test_the_form_of_calls_is_told_to_who_brought_tools(world: World) -> None:
    world.bob.engine.calls = "hermes"
    for tools, form in ((b"[]", "hermes"), (b"", "")):
        async with world.gateway.complete(request(tools=tools)) as answer:
            assert answer.calls == form
            assert [delta async for delta in answer]
    assert [job.tools for job, _ in world.bob.engine.jobs] == [b"[]", b""]
