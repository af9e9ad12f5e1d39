"""The serving side of one call."""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from typing import Protocol

import trio

from r3mes.errors import NetworkError, PeerDisconnected, R3mesError, WireError
from r3mes.ids import PeerId
from r3mes.p2p.protocols.infer.messages import (
    INFER_1_0,
    INFER_1_1,
    Accepted,
    Cancel,
    Credit,
    Done,
    Hello,
    Receipt,
    Request,
    decode,
    encode,
)
from r3mes.p2p.protocols.infer.outbox import Outbox
from r3mes.p2p.protocols.infer.refusals import failed, turned_down
from r3mes.p2p.streams import FrameStream, close_gently
from r3mes.p2p.unwrap import single

logger = logging.getLogger(__name__)

REQUEST_S = 10.0
"""A gateway that has read the hello sends its request within this time, or leaves."""
RECEIPT_S = 5.0
"""How long the end of an answer waits for its countersignature."""
CANCEL_S = 10.0
"""After a cancel the service has so long to end the answer, receipt included."""


class InferService(Protocol):
    """What answers requests."""

    def hello(self) -> Hello:
        """What this node says first; asked anew for every stream."""
        ...

    async def answer(self, request: Request, call: ServerCall) -> None:
        """Answer through ``call``: accept, tokens, done; what it raises is told to the peer.

        Cancelled when the peer goes away.
        """
        ...


class ServerCall:
    """One request from one peer, for the service that answers it."""

    def __init__(self, stream: FrameStream) -> None:
        self._stream = stream
        self.peer: PeerId = stream.peer
        self.cancelled = trio.Event()
        """Set when the gateway wants no more tokens; end with `done` for what was written."""
        self.refusal_receipt = b""
        """Set before raising AlreadyAnswered: the receipt that goes with the refusal."""
        self.accepted = self.ended = False
        self._outbox = Outbox(stream)
        self._receipt: bytes | None = None
        self._receipt_settled = trio.Event()

    async def accept(self, prompt_ids: tuple[int, ...], calls: str = "") -> None:
        """Take the request on; ``prompt_ids`` is the prompt as the model reads it.

        With the form in which the model writes ``calls`` of tools, if it was shown any.
        """
        self.accepted = True
        await self._stream.send(encode(Accepted(tuple(prompt_ids), calls)))

    async def tokens(
        self, ids: tuple[int, ...], text: str, logprobs: tuple[bytes, ...] = ()
    ) -> None:
        """Write on; waits while the gateway reads slower than that.

        The first tokens leave at once, later ones are gathered for a few milliseconds.
        """
        await self._outbox.put(ids, text, logprobs)

    async def done(self, result: bytes, signature: bytes) -> bytes | None:
        """End the answer; the countersignature, or None if none comes in time."""
        await self._outbox.flush()
        self.ended = True
        await self._stream.send(encode(Done(result, signature)))
        await self._stream.finish()
        with trio.move_on_after(RECEIPT_S):
            await self._receipt_settled.wait()
        return self._receipt

    async def fail(self, error: R3mesError) -> None:
        """End the call with ``error``; only logged once the answer has ended."""
        if self.ended:
            logger.info("after the answer to %s: %s", self.peer, error)
            return
        self.ended = True
        word = failed(error) if self.accepted else turned_down(error, self.refusal_receipt)
        await self._stream.send(encode(word))
        await self._stream.finish()

    async def write_out(self, answering: trio.CancelScope) -> None:
        """Carry gathered tokens to the stream; runs beside the service."""
        try:
            await self._outbox.run()
        except PeerDisconnected as error:
            logger.debug("call of %s: %s", self.peer, error.detail)
            answering.cancel()

    async def listen(self, answering: trio.CancelScope) -> None:
        """Heed what the gateway says; runs beside the service.

        A gateway that leaves before the end takes the answer with it.
        """
        try:
            while (frame := await self._stream.receive()) is not None:
                self._heed(frame, answering)
        except NetworkError as error:
            logger.debug("call of %s: %s", self.peer, error.detail)
        self._receipt_settled.set()
        if not self.ended:
            answering.cancel()

    def _heed(self, frame: bytes, answering: trio.CancelScope) -> None:
        match decode(frame):
            case Credit(frames):
                self._outbox.grant(frames)
            case Cancel():
                self.cancelled.set()
                answering.deadline = min(answering.deadline, trio.current_time() + CANCEL_S)
            case Receipt(countersignature) if self.ended and self._receipt is None:
                self._receipt = countersignature
                self._receipt_settled.set()
            case message:
                raise WireError(f"{self.peer} said {type(message).__name__} out of turn")


async def serve_infer(stream: FrameStream, service: InferService) -> None:
    """Speak the protocol once on ``stream`` and close it; raises nothing but cancellation."""
    try:
        await stream.send(encode(_hello(stream, service)))
        request = await _request(stream)
        if request is None or await _answer(stream, service, request):
            await close_gently(stream)
    except PeerDisconnected as error:
        logger.debug("call of %s: %s", stream.peer, error.detail)
    except Exception:  # a stream handler is a crash boundary
        logger.exception("serving a call of %s", stream.peer)
    finally:
        await stream.aclose()


def _hello(stream: FrameStream, service: InferService) -> Hello:
    """The service's, as the peer can read it: before 1.2 a name with a colon made it garbage."""
    hello = service.hello()
    if stream.protocol not in (INFER_1_0, INFER_1_1):
        return hello
    return replace(hello, models=tuple(one for one in hello.models if ":" not in one.name))


async def _request(stream: FrameStream) -> Request | None:
    """The request; None if the gateway only wanted the hello or has been told off."""
    with trio.move_on_after(REQUEST_S):
        try:
            frame = await stream.receive()
            return None if frame is None else _request_in(frame)
        except WireError as error:
            await stream.send(encode(turned_down(error, b"")))
            return None
    raise PeerDisconnected(f"{stream.peer} sent no request within {REQUEST_S:g} s")


def _request_in(frame: bytes) -> Request:
    message = decode(frame)
    if not isinstance(message, Request):
        raise WireError(f"{type(message).__name__} came where a request was due")
    return message


async def _answer(stream: FrameStream, service: InferService, request: Request) -> bool:
    """Have ``request`` answered; False if the gateway went away or out of turn before the end."""
    call = ServerCall(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.listen, nursery.cancel_scope)
        nursery.start_soon(call.write_out, nursery.cancel_scope)
        try:
            await service.answer(request, call)
            if not call.ended:
                raise R3mesError("the service left the answer without an end")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001 crash boundary: told to the peer, node lives on
            await _tell(call, error)
        nursery.cancel_scope.cancel()
    return call.ended


async def _tell(call: ServerCall, error: Exception) -> None:
    cause = single(error)
    if not isinstance(cause, R3mesError):
        incident = secrets.token_hex(4)
        logger.error("incident %s in an answer to %s", incident, call.peer, exc_info=error)
        cause = R3mesError(f"the serving node failed, incident {incident}")
    try:
        await call.fail(cause)
    except PeerDisconnected:
        logger.debug("%s left before it was told: %s", call.peer, cause.detail)
