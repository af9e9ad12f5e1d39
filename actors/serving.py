"""The serving side of an answer: verify, admit, write, sign.

Runs in the task of the stream that brought the request, also when the node asks itself.  The
order follows the life of a request in ``docs/architecture.md``: nothing is computed before the
signature holds, and the signed end is in the store before it leaves.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

import trio

from r3mes.actors.active import Active
from r3mes.actors.asking import asker, asking_for
from r3mes.actors.doorway import Doorway
from r3mes.actors.ledger import Ledger, Receipt
from r3mes.actors.observing import (
    EnvelopeRefusal,
    Observer,
    Queued,
    Receipted,
    Source,
    Watched,
    unobserved,
)
from r3mes.actors.requests.envelope import RequestVerifier, VerifiedRequest
from r3mes.actors.requests.job import InferJob
from r3mes.actors.requests.pricing import output_digest, price_of
from r3mes.actors.requests.receipt import Result, sign_result, verify_countersignature
from r3mes.actors.tracing import NO_TRACER, Tracer, caller, first_part, part
from r3mes.chain.keys.signing import Signer
from r3mes.errors import (
    AlreadyAnswered,
    EnvelopeRefused,
    EnvelopeReplayed,
    ModelNotFound,
    PriceExceeded,
    R3mesError,
    StoreError,
)
from r3mes.ids import ModelHash, PeerId
from r3mes.p2p.protocols.infer import Hello, ModelOffer, Request, ServerCall
from r3mes.p2p.wire import pack

logger = logging.getLogger(__name__)

DROP_S = 2.0
"""How long the store may take to forget a job that failed."""


class Chunk(Protocol):
    """What was written since the last one."""

    @property
    def ids(self) -> tuple[int, ...]: ...
    @property
    def text(self) -> str: ...
    @property
    def logprobs(self) -> tuple[bytes, ...]: ...


class Generation(Protocol):
    """One answer being written."""

    @property
    def prompt_ids(self) -> tuple[int, ...]: ...
    @property
    def output_ids(self) -> tuple[int, ...]: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def queue_s(self) -> float: ...
    @property
    def calls(self) -> str: ...
    def __aiter__(self) -> AsyncIterator[Chunk]: ...
    def cancel(self) -> None: ...


class Engine(Protocol):
    """What serving needs of inference."""

    def check_room(self, model: str, deadline_s: float) -> None:
        """Raise `Overloaded` if an answer could not begin in time; costs nothing."""

    def generate(
        self, model: str, job: InferJob, *, max_tokens: int | None, deadline_s: float
    ) -> AbstractAsyncContextManager[Generation]: ...


def _price(offer: ModelOffer, prompt_tokens: int, completion_tokens: int) -> int:
    return price_of(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        price_prompt=offer.price_prompt,
        price_completion=offer.price_completion,
    )


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A request that was verified, and what it asks for."""

    request: VerifiedRequest
    peer: PeerId
    offer: ModelOffer
    job: InferJob
    watched: Watched

    @property
    def deadline_s(self) -> float:
        """Seconds from now, because clocks may differ, until the answer must have begun."""
        return (self.request.header.exp_ms - self.request.header.iat_ms) / 1000


class Serving:
    """Answers inference requests; an `r3mes.p2p.protocols.infer.InferService`.

    Args:
        own: this node's peer id: what it asks itself is counted apart, and moves nothing.
        hello: what this node says first: boot epoch, binding, models with prices.
        verifier: checks a signed request and remembers its nonce.
        engine: writes the answer.
        ledger: where jobs and receipts are kept.
        wallet: signs the end of an answer.
        now_ms: wall clock, unix milliseconds.
        doorway: counts the answers in flight and is closed when the node drains.
        active: lists them.
        tell: told what happens to requests.
        tracer: keeps traces of them.
    """

    def __init__(
        self,
        *,
        own: PeerId,
        hello: Callable[[], Hello],
        verifier: RequestVerifier,
        engine: Engine,
        ledger: Ledger,
        wallet: Signer,
        now_ms: Callable[[], int],
        doorway: Doorway,
        active: Active,
        tell: Observer = unobserved,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._own, self._active, self._tell, self._tracer = own, active, tell, tracer
        self._hello, self._verifier, self._engine = hello, verifier, engine
        self._ledger, self._wallet, self._now_ms = ledger, wallet, now_ms
        self._doorway = doorway

    def hello(self) -> Hello:
        return self._hello()

    async def answer(self, request: Request, call: ServerCall) -> None:
        """Serve one request; what it raises is told to the peer."""
        source: Source = "local" if call.peer == self._own else "peer"
        asked_in = caller(request.trace, trusted=source == "local")
        with (
            first_part(self._tracer, "r3mes.serve", "server", caller=asked_in),
            Watched(self._tell, source) as watched,
            self._doorway.enter(),
            self._active.enter(watched),
        ):
            verified = self._verified(request)
            owner = asker() if source == "local" else f"account {verified.header.sub}"
            try:
                with asking_for(owner):
                    await self._take(verified, call, watched)
            except BaseException:
                self._verifier.settle(verified.header, 0)
                raise

    def _verified(self, request: Request) -> VerifiedRequest:
        try:
            return self._verifier.verify(request.envelope, request.delegation)
        except (EnvelopeRefused, EnvelopeReplayed) as error:
            reason = error.reason if isinstance(error, EnvelopeRefused) else "replayed"
            self._tell(EnvelopeRefusal(reason))
            raise

    async def _take(self, verified: VerifiedRequest, call: ServerCall, watched: Watched) -> None:
        """Do the job, unless it was taken before."""
        header = verified.header
        job, offer = InferJob.decode(verified.body), self._offer(header.model)
        watched.model = offer.name
        accepted = _Accepted(verified, call.peer, offer, job, watched)
        # Before the job is taken: under overload the store must not pay for refusals.
        self._engine.check_room(offer.name, accepted.deadline_s)
        await self._open(verified, call)
        try:
            await self._write(accepted, call)
        except BaseException:
            await self._drop(verified)
            raise

    async def _open(self, verified: VerifiedRequest, call: ServerCall) -> None:
        header = verified.header
        try:
            await self._ledger.open_job(header.sub, header.idem, verified.hash)
        except AlreadyAnswered as error:
            call.refusal_receipt = _bytes_of(error.receipt)
            raise
        except StoreError:  # nothing was written: dropping would only wait for the store once more
            raise
        except BaseException:  # what timed out may have been taken
            await self._drop(verified)
            raise

    async def _drop(self, verified: VerifiedRequest) -> None:
        """Let the job be asked for again; also when the peer has gone, and never raises."""
        header = verified.header
        with trio.move_on_after(DROP_S, shield=True):
            try:
                await self._ledger.drop_job(header.sub, header.idem, verified.hash)
            except R3mesError as error:
                logger.warning("job %s stays taken: %s", header.idem.hex(), error.detail)

    def _offer(self, model: ModelHash) -> ModelOffer:
        for offer in self._hello().models:
            if offer.hash == model:
                return offer
        raise ModelNotFound(f"this node does not serve the model {model.hex()[:16]}…")

    async def _write(self, accepted: _Accepted, call: ServerCall) -> None:
        header, offer = accepted.request.header, accepted.offer
        # A cap of the whole context means: as much as fits beside the prompt.
        cap = None if header.max_tokens >= offer.context else header.max_tokens
        async with AsyncExitStack() as stack:
            writing = self._engine.generate(
                offer.name, accepted.job, max_tokens=cap, deadline_s=accepted.deadline_s
            )
            with part("r3mes.queue"):
                generation = await stack.enter_async_context(writing)
            self._tell(Queued(offer.name, generation.queue_s))
            self._check_price(accepted, len(generation.prompt_ids))
            accepted.watched.prompt_tokens = len(generation.prompt_ids)
            await call.accept(generation.prompt_ids, generation.calls)
            await self._relay(accepted, generation, call)
        with part("r3mes.settle"):
            await self._close(accepted, generation, call)

    def _check_price(self, accepted: _Accepted, prompt_tokens: int) -> None:
        header, offer = accepted.request.header, accepted.offer
        completion = min(header.max_tokens, max(0, offer.context - prompt_tokens))
        most = _price(offer, prompt_tokens, completion)
        if most > header.max_price:
            raise PriceExceeded(
                f"the answer may cost {most} uremes and the request allows {header.max_price}"
            )

    async def _relay(self, accepted: _Accepted, generation: Generation, call: ServerCall) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_when_cancelled, generation, call)
            chunks = aiter(generation)
            with part("r3mes.prefill"):
                chunk = await anext(chunks, None)
            with part("r3mes.decode"):
                while chunk is not None:
                    accepted.watched.wrote(len(chunk.ids))
                    await call.tokens(chunk.ids, chunk.text, chunk.logprobs)
                    chunk = await anext(chunks, None)
            nursery.cancel_scope.cancel()
        accepted.watched.finish = generation.finish_reason

    async def _close(self, accepted: _Accepted, generation: Generation, call: ServerCall) -> None:
        result = self._result(accepted, generation)
        signed = sign_result(self._wallet, result)
        header = accepted.request.header
        self._verifier.settle(header, result.price)
        await self._ledger.finish_job(
            Receipt(
                request_hash=accepted.request.hash,
                role="server",
                sub=header.sub,
                idem=header.idem,
                peer=accepted.peer,
                model=accepted.offer.name,
                prompt_tokens=result.prompt_tokens,
                completion_tokens=result.completion_tokens,
                price=result.price,
                status=result.status,
                result=signed.result,
                signature=signed.signature,
                countersignature=None,
                created_ms=self._now_ms(),
            )
        )
        earned = result.price if accepted.watched.source == "peer" else 0
        self._tell(Receipted("server", "kept", earned))
        countersignature = await call.done(signed.result, signed.signature)
        if countersignature is not None:
            verify_countersignature(
                signed.result, signed.signature, countersignature, sub=header.sub, pub=header.pub
            )
            await self._ledger.countersigned(accepted.request.hash, countersignature)
            self._tell(Receipted("server", "countersigned"))

    def _result(self, accepted: _Accepted, generation: Generation) -> Result:
        prompt_tokens, ids = len(generation.prompt_ids), generation.output_ids
        return Result(
            request_hash=accepted.request.hash,
            output_sha256=output_digest(ids),
            prompt_tokens=prompt_tokens,
            completion_tokens=len(ids),
            price=_price(accepted.offer, prompt_tokens, len(ids)),
            model=accepted.offer.hash,
            commitments=b"",
            status=generation.finish_reason,
            server=self._wallet.address,
        )


def _bytes_of(receipt: object) -> bytes:
    """A receipt as it goes along with a refusal: result, signature, countersignature."""
    if not isinstance(receipt, Receipt):
        return b""  # the job is still being worked on
    return pack((receipt.result, receipt.signature, receipt.countersignature or b""))


async def _stop_when_cancelled(generation: Generation, call: ServerCall) -> None:
    await call.cancelled.wait()
    generation.cancel()
