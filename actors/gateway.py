"""The gateway side of an answer: choose a peer, sign, relay, check the end, keep the receipt.

Every node is one for its own applications.  It asks itself exactly as it asks others, so that
local answers are signed, checked and receipted by the same code.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

import trio

from r3mes.actors.active import Active
from r3mes.actors.asking import asking_for
from r3mes.actors.candidates import Candidate
from r3mes.actors.doorway import Doorway
from r3mes.actors.ledger import Ledger, Receipt
from r3mes.actors.observing import (
    FailedOver,
    Observer,
    Receipted,
    Routed,
    Watched,
    unobserved,
)
from r3mes.actors.requests.envelope import SignedRequest, sign_request
from r3mes.actors.requests.job import InferJob
from r3mes.actors.requests.logprobs import Logprob, decode_record
from r3mes.actors.requests.pricing import output_digest, price_of
from r3mes.actors.requests.receipt import Result, countersign, verify_result
from r3mes.actors.tracing import NO_TRACER, Tracer, first_part, part, traceparent
from r3mes.chain.keys.signing import Signer
from r3mes.errors import (
    ContextLengthExceeded,
    EngineError,
    EnvelopeRefused,
    ModelNotFound,
    NetworkError,
    NoPeer,
    NotReady,
    Overloaded,
    PeerTooOld,
    PriceExceeded,
    R3mesError,
    StoreError,
    WireError,
)
from r3mes.ids import ModelHash, PeerId
from r3mes.p2p.protocols.infer import ClientCall, Hello, ModelOffer, Tokens
from r3mes.p2p.streams import FrameStream

logger = logging.getLogger(__name__)

SETTLE_S = 3.0
"""How long the end of an answer that the application gave up is waited for, for its receipt."""
REQUEST_TTL_MS = 30_000
"""How long a signed request may wait at the serving node; `Patience.accept_s` waits as long."""

CANDIDATES_OWN = (Overloaded, PriceExceeded, EnvelopeRefused, PeerTooOld)
"""Of a candidate's load, prices, clock or version; told as it is if all candidates say the same."""
ELSEWHERE = (NetworkError, EngineError, StoreError, NotReady, ModelNotFound, *CANDIDATES_OWN)
"""Failures of one candidate before its first token; the next one may do better.  What is wrong
with the request itself is wrong everywhere."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What an application asks; ranges are checked at the surface that took it.

    Args:
        max_tokens: most tokens to write; None for as many as fit.
        seed: of the sampling; None for a fresh one.
        min_p, presence_penalty, frequency_penalty, repetition_penalty, logit_bias, logprobs,
            grammar_kind, grammar, tools, call: as
            `r3mes.actors.requests.job.InferJob` has them.
        key_id: the API key that it came with, for its usage; None from elsewhere.
        request_id: names it while it is under way; made if it is empty.
        auto: how the model was chosen, if a router chose it; told with the answer.
    """

    model: str
    messages: Sequence[Mapping[str, object]]
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int = 0
    grammar_kind: str = ""
    grammar: str = ""
    tools: bytes = b""
    call: str = ""
    key_id: str | None = None
    request_id: str = ""
    auto: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that can be asked for; prices in uremes per million tokens.

    Args:
        id: its name.
        context: prompt and answer together, in tokens.
        owned_by: the peer that serves it, or ``local``.
    """

    id: str
    hash_hex: str
    context: int
    owned_by: str
    price_prompt: int
    price_completion: int


class Routes(Protocol):
    """What the gateway needs of routing: this node first, then what the router knows."""

    async def offers(self) -> Sequence[Candidate]: ...

    async def candidates(self, model: str) -> Sequence[Candidate]: ...

    def check_room(self, candidate: Candidate, patience_s: float) -> None:
        """Raise `Overloaded` if it is known not to begin within ``patience_s`` seconds."""

    def ended(self, peer: PeerId, *, ok: bool) -> None: ...


Connect = Callable[[PeerId], AbstractAsyncContextManager[FrameStream]]
"""Opens a stream of the inference protocol to a peer, or to this node itself."""


class Answer:
    """An answer being written; iterate it once for its text.

    What the signed end says (`finish_reason`, `cost_uremes`, the two ``…_verified``) holds after
    the iteration has come to its end.
    """

    def __init__(
        self,
        gateway: Gateway,
        call: ClientCall,
        candidate: Candidate,
        signed: SignedRequest,
        watched: Watched,
    ) -> None:
        self._gateway, self.call, self.candidate, self.signed = gateway, call, candidate, signed
        self.watched = watched
        self.model, self.peer = candidate.offer.name, candidate.peer
        self.route = gateway.route(candidate.peer)
        self.receipt_id = signed.hash.hex()
        self.prompt_ids: tuple[int, ...] = ()
        self.output_ids: list[int] = []
        self._logprobs: list[tuple[Logprob, ...]] = []
        self.logprobs_asked = 0
        self.calls = ""
        """The form in which it writes calls of tools; empty if none were shown."""
        self.queue_ms = 0.0
        self.settled = False
        self.key_id: str | None = None
        self.auto: Mapping[str, object] | None = None
        self.finish_reason = ""
        self.cost_uremes = 0
        self.signature_verified = self.receipt_verified = False

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_ids)

    @property
    def completion_tokens(self) -> int:
        return len(self.output_ids)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while (frame := await self.call.next_tokens()) is not None:
            if self.completion_tokens + len(frame.ids) > self._most():
                raise WireError(f"{self.peer} writes more than the {self._most()} tokens asked for")
            self.output_ids.extend(frame.ids)
            self._note_logprobs(frame)
            self.watched.wrote(len(frame.ids))
            if frame.text:
                return frame.text
        await self._gateway.settle(self)
        raise StopAsyncIteration

    def new_logprobs(self) -> list[tuple[Logprob, ...]]:
        """Those of the tokens that came since this was called last; none if not asked for.

        For each token its own, then those of the likeliest.
        """
        new, self._logprobs = self._logprobs, []
        return new

    def _note_logprobs(self, frame: Tokens) -> None:
        asked = self.logprobs_asked
        if len(frame.logprobs) != (len(frame.ids) if asked else 0):
            raise WireError(f"{self.peer} tells log-probabilities of other tokens than it writes")
        self._logprobs += [decode_record(record, asked) for record in frame.logprobs]

    def _most(self) -> int:
        """Tokens that were ordered; what comes beyond is neither kept nor paid."""
        left = self.candidate.offer.context - self.prompt_tokens
        return min(self.signed.header.max_tokens, left)


class Gateway:
    """Completes chats for the applications of this node.

    Args:
        own: this node's peer id.
        connect: opens a stream to a candidate.
        routes: who can answer.
        wallet: signs requests and countersigns receipts.
        ledger: keeps the receipts.
        chain_id: goes into every signed request.
        max_price: the most that one answer may cost, in uremes; may be changed at any time.
        now_ms: wall clock, unix milliseconds.
        doorway: counts the answers in flight and is closed when the node drains.
        active: lists them, and lets one be cancelled.
        tell: told what happens to requests.
        tracer: keeps traces of them.
    """

    def __init__(
        self,
        *,
        own: PeerId,
        connect: Connect,
        routes: Routes,
        wallet: Signer,
        ledger: Ledger,
        chain_id: str,
        max_price: int,
        now_ms: Callable[[], int],
        doorway: Doorway,
        active: Active,
        tell: Observer = unobserved,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._active, self._tell, self._tracer = active, tell, tracer
        self._own, self._connect, self._routes = own, connect, routes
        self._wallet, self._ledger, self._chain_id = wallet, ledger, chain_id
        self.max_price, self._now_ms, self._doorway = max_price, now_ms, doorway

    def route(self, peer: PeerId) -> Literal["local", "peer"]:
        """How an answer from ``peer`` comes: ``local`` or ``peer``."""
        return "local" if peer == self._own else "peer"

    async def models(self) -> list[ModelEntry]:
        """Every model that can be asked for, once, our own before those of peers."""
        found: dict[str, ModelEntry] = {}
        for one in await self._routes.offers():
            offer = one.offer
            owner = "local" if one.peer == self._own else one.peer
            entry = ModelEntry(
                offer.name,
                offer.hash.hex(),
                offer.context,
                owner,
                offer.price_prompt,
                offer.price_completion,
            )
            found.setdefault(offer.name, entry)
        return list(found.values())

    @asynccontextmanager
    async def complete(self, request: ChatRequest) -> AsyncIterator[Answer]:
        """Have ``request`` answered; leaving early cancels the answer and keeps its receipt.

        Raises:
            ModelNotFound: nobody known serves the model.
            NoPeer: those who serve it could not be used.
            RequestCancelled: somebody cancelled it by its id.
            R3mesError: what the serving node refused the request with.
        """
        with (
            first_part(self._tracer, "r3mes.request", "server", or_part=True),
            Watched(self._tell, "api", request.model) as watched,
            self._doorway.enter(),
            self._active.enter(watched, request.request_id, request.key_id),
        ):
            async with AsyncExitStack() as stack:
                with asking_for(f"key {request.key_id or ''}"):
                    answer = await self._first_willing(stack, request, watched)
                try:
                    yield answer
                finally:
                    await self._leave(answer)

    async def _first_willing(
        self, stack: AsyncExitStack, request: ChatRequest, watched: Watched
    ) -> Answer:
        failures: list[tuple[PeerId, R3mesError]] = []
        for candidate in await self._candidates(request.model):
            try:
                # Under overload a refusal must cost neither a signature nor a stream to oneself.
                self._routes.check_room(candidate, REQUEST_TTL_MS / 1000)
                async with AsyncExitStack() as attempt:
                    answer = await self._open(attempt, candidate, request, watched)
                    stack.push_async_exit(attempt.pop_all())
                    self._tell(Routed(self.route(candidate.peer)))
                    return answer
            except ELSEWHERE as error:
                logger.info("candidate %s: %s", candidate.peer, error.detail)
                self._tell(FailedOver(error.kind.code))
                if not isinstance(error, PeerTooOld):  # for what it knows it is as good as ever
                    self._routes.ended(candidate.peer, ok=False)
                failures.append((candidate.peer, error))
        self._tell(Routed("none"))
        raise self._nobody(request.model, failures)

    async def _candidates(self, model: str) -> Sequence[Candidate]:
        with part("r3mes.route") as span:
            try:
                found = await self._routes.candidates(model)
            except ModelNotFound:
                self._tell(Routed("none"))
                raise
            span.note({"r3mes.candidates": len(found)})
            return found

    def _nobody(self, model: str, failures: Sequence[tuple[PeerId, R3mesError]]) -> R3mesError:
        errors, last = [error for _, error in failures], failures[-1][1]
        alike = isinstance(last, CANDIDATES_OWN) and len({type(error) for error in errors}) == 1
        if alike or {peer for peer, _ in failures} == {self._own}:
            return last
        why = "; ".join(sorted({error.detail for error in errors}))
        return NoPeer(f"no node that serves {model!r} could be used: {why}")

    async def _open(
        self,
        stack: AsyncExitStack,
        candidate: Candidate,
        request: ChatRequest,
        watched: Watched,
    ) -> Answer:
        """Bring ``request`` to one candidate, until it has accepted it."""
        started = trio.current_time()
        span = stack.enter_context(part("r3mes.p2p", "client"))
        span.note({"r3mes.peer": candidate.peer, "r3mes.route": self.route(candidate.peer)})
        stream = await stack.enter_async_context(self._connect(candidate.peer))
        call = await stack.enter_async_context(ClientCall(stream, own=candidate.peer == self._own))
        hello = await call.hello()
        # What routing knows may be older than this hello, which is what we sign for.
        candidate = replace(candidate, offer=_offer_of(hello, candidate.offer.hash))
        job = _job(request)
        if job.version > 1 and not call.takes_later_jobs:
            raise PeerTooOld(f"{candidate.peer} does not know all that is asked for")
        signed = self._sign(candidate, hello.epoch, request, job)
        answer = Answer(self, call, candidate, signed, watched)
        answer.logprobs_asked = job.logprobs
        accepted = await call.request(answer.signed.wire, trace=traceparent())
        if len(accepted.prompt_ids) >= candidate.offer.context:
            raise WireError(f"{candidate.peer} counts more prompt than the model's context takes")
        answer.prompt_ids, answer.key_id = tuple(accepted.prompt_ids), request.key_id
        answer.auto = request.auto
        answer.calls = accepted.calls if request.tools else ""
        watched.model, watched.prompt_tokens = answer.model, answer.prompt_tokens
        answer.queue_ms = (trio.current_time() - started) * 1000
        return answer

    def _sign(
        self, candidate: Candidate, epoch: bytes, request: ChatRequest, job: InferJob
    ) -> SignedRequest:
        offer = candidate.offer
        return sign_request(
            self._wallet,
            chain=self._chain_id,
            audience=candidate.peer,
            epoch=epoch,
            model=offer.hash,
            body=job.encode(),
            max_tokens=_max_tokens(request, offer),
            max_price=self._price_limit(offer),
            now_ms=self._now_ms(),
            ttl_ms=REQUEST_TTL_MS,
        )

    def _price_limit(self, offer: ModelOffer) -> int:
        """What the whole context may cost at the price offered, if that is not over our limit."""
        most = price_of(
            prompt_tokens=offer.context,
            completion_tokens=offer.context,
            price_prompt=offer.price_prompt,
            price_completion=offer.price_completion,
        )
        return min(most, self.max_price)

    async def settle(self, answer: Answer) -> None:
        """Check the signed end of ``answer``, keep the receipt, countersign.

        Raises:
            WireError: the end does not fit what came before it.
            EnvelopeRefused: the signature does not hold, or another wallet's.
        """
        with part("r3mes.settle"):
            await self._settle(answer)

    async def _settle(self, answer: Answer) -> None:
        signed, done = answer.signed, await answer.call.done()
        result = verify_result(done.result, done.signature, wallet=answer.candidate.wallet)
        self._check(answer, result)
        answer.signature_verified = True
        answer.finish_reason, answer.cost_uremes = result.status, result.price
        counter = countersign(self._wallet, done.result, done.signature)
        await self._ledger.record(
            Receipt(
                request_hash=signed.hash,
                role="gateway",
                sub=signed.header.sub,
                idem=signed.header.idem,
                peer=answer.peer,
                model=answer.model,
                prompt_tokens=result.prompt_tokens,
                completion_tokens=result.completion_tokens,
                price=result.price,
                status=result.status,
                result=done.result,
                signature=done.signature,
                countersignature=counter,
                created_ms=self._now_ms(),
                key_id=answer.key_id,
            )
        )
        answer.receipt_verified = True
        answer.watched.finish = result.status
        self._tell(Receipted("gateway", "kept", result.price if answer.route == "peer" else 0))
        await answer.call.receipt(counter)
        answer.settled = True
        self._routes.ended(answer.peer, ok=True)

    def _check(self, answer: Answer, result: Result) -> None:
        signed, offer = answer.signed, answer.candidate.offer
        due = price_of(
            prompt_tokens=len(answer.prompt_ids),
            completion_tokens=len(answer.output_ids),
            price_prompt=offer.price_prompt,
            price_completion=offer.price_completion,
        )
        if (
            result.request_hash != signed.hash
            or result.model != offer.hash
            or result.prompt_tokens != len(answer.prompt_ids)
            or result.completion_tokens != len(answer.output_ids)
            or result.output_sha256 != output_digest(answer.output_ids)
        ):
            raise WireError("the signed end of the answer does not fit the tokens that came")
        if result.price > min(due, signed.header.max_price):
            raise PriceExceeded(f"the peer asks {result.price} uremes, {due} are due")

    async def _leave(self, answer: Answer) -> None:
        """Cancel an answer that did not come to its end, and keep the receipt of what came.

        Settles also what a cancel cut off in the middle of settling.
        """
        if answer.settled:
            return
        try:
            with trio.move_on_after(SETTLE_S, shield=True):
                await answer.call.cancel()
                async for _text in answer:
                    pass
        except R3mesError as error:
            logger.info("answer %s given up without a receipt: %s", answer.receipt_id, error.detail)
            self._tell(Receipted("gateway", "lost"))
            self._routes.ended(answer.peer, ok=False)


def _offer_of(hello: Hello, model: ModelHash) -> ModelOffer:
    for offer in hello.models:
        if offer.hash == model:
            return offer
    raise ModelNotFound(f"the peer no longer serves the model {model.hex()[:16]}…")


def _max_tokens(request: ChatRequest, offer: ModelOffer) -> int:
    if request.max_tokens is None:
        return offer.context
    if request.max_tokens >= offer.context:
        raise ContextLengthExceeded(
            f"max_tokens is {request.max_tokens} and {offer.name} has a context of "
            f"{offer.context} tokens for prompt and answer together",
            param="max_tokens",
        )
    return request.max_tokens


def _job(request: ChatRequest) -> InferJob:
    return InferJob(
        messages=json.dumps(list(request.messages), ensure_ascii=False).encode(),
        emitted=(),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        seed=secrets.randbits(63) if request.seed is None else request.seed,
        stop=request.stop,
        min_p=request.min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        logit_bias=request.logit_bias,
        logprobs=request.logprobs,
        grammar_kind=request.grammar_kind,
        grammar=request.grammar,
        tools=request.tools,
        call=request.call,
    )
