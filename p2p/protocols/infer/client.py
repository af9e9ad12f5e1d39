"""The gateway's side of one call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import trio

from r3mes.errors import PeerDisconnected, R3mesError, WireError
from r3mes.p2p.protocols.infer.messages import (
    CREDIT_FRAMES,
    INFER_1_0,
    INFER_1_1,
    Accepted,
    Cancel,
    Credit,
    Done,
    Failed,
    Hello,
    Message,
    Receipt,
    Request,
    Tokens,
    TurnedDown,
    decode,
    encode,
)
from r3mes.p2p.protocols.infer.refusals import raised, raised_here
from r3mes.p2p.streams import FrameStream, close_gently

_GRANT_FRAMES = CREDIT_FRAMES // 2
"""Token frames read before new credit is given for them."""
_LAST_FRAMES = 2
"""Room for what needs no credit: the end of an answer behind its tokens."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Longest silences of a server, in seconds, before it counts as gone.

    Args:
        first_token_s: besides the time for reading the prompt.
        prefill_rate: prompt tokens a second of the slowest server that is worth waiting for.  One
            that is gone is found out earlier, by the pings of its connection.
    """

    hello_s: float = 5.0
    accept_s: float = 30.0
    first_token_s: float = 30.0
    prefill_rate: float = 20.0
    token_s: float = 15.0

    def first_s(self, prompt_tokens: int) -> float:
        """How long to wait for the first token behind such a prompt."""
        return self.first_token_s + prompt_tokens / self.prefill_rate


class ClientCall:
    """One request to one peer over ``stream``; a context manager.

    A reader task takes frames off the stream as they come, into a queue that the credit bounds, so
    that a slow consumer never fills the connection's window.  The task lives until the block is
    left, also when the surrounding scope is cancelled: a shielded block can still read the end.
    Leaving before the answer's end resets the stream, and the server stops.

    Args:
        stream: to the server.
        patience: with its silences.
        own: the server is this node itself, whose errors are believed and keep their class.

    All methods raise PeerDisconnected when the peer is gone or silent for too long and WireError
    when it does not keep to the protocol.
    """

    def __init__(
        self, stream: FrameStream, *, patience: Patience = Patience(), own: bool = False
    ) -> None:
        self._stream, self._patience = stream, patience
        self._raised = raised_here if own else raised
        self._inbox_in, self._inbox = trio.open_memory_channel[Message](
            CREDIT_FRAMES + _LAST_FRAMES
        )
        self._reading = trio.CancelScope(shield=True)
        self._error: R3mesError = PeerDisconnected(f"{stream.peer} ended the stream")
        self._owed = CREDIT_FRAMES  # token frames that may still come
        self._read = 0  # token frames consumed since the last grant
        self._position = 0
        self._first_token_s = patience.first_token_s
        self._text_is_whole = False  # a frame without ids came: the rest of the text
        self._open = False  # a request is out and its end has not come
        self._done: Done | None = None
        self.refusal_receipt = b""
        """What came along with a refusal: the receipt of a job that was answered before."""

    async def __aenter__(self) -> Self:
        self._nursery_manager = trio.open_nursery()
        nursery = await self._nursery_manager.__aenter__()
        nursery.start_soon(self._read_frames)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The body's error goes round the nursery, which would wrap it in a group.
        self._reading.cancel()
        try:
            await self._nursery_manager.__aexit__(None, None, None)
        finally:
            with trio.CancelScope(shield=True):
                await (self._stream.aclose() if self._open else close_gently(self._stream))

    async def hello(self) -> Hello:
        """What the server said first."""
        message = await self._next(self._patience.hello_s)
        if not isinstance(message, Hello):
            raise self._out_of_turn(message)
        return message

    async def request(
        self, envelope: bytes, delegation: bytes = b"", *, trace: str = ""
    ) -> Accepted:
        """Send the signed request; after `hello`.

        Args:
            envelope: the request.
            delegation: of the session key that signed it, if one did.
            trace: of which trace it is a part; not told to a server whose version has no place
                for it.

        Raises:
            R3mesError: the refusal, as the class of its code.
        """
        self._open = True
        told = trace if self._stream.protocol != INFER_1_0 else ""
        await self._stream.send(encode(Request(envelope, delegation, told)))
        match message := await self._next(self._patience.accept_s):
            case Accepted():
                self._first_token_s = self._patience.first_s(len(message.prompt_ids))
                return message
            case TurnedDown():
                self._open = False
                self.refusal_receipt = message.receipt
                raise self._raised(message, self._stream.peer)
            case _:
                raise self._out_of_turn(message)

    @property
    def takes_later_jobs(self) -> bool:
        """Whether the server understands jobs of a version after the first."""
        return self._stream.protocol not in (INFER_1_0, INFER_1_1)

    def tokens(self) -> AsyncIterator[Tokens]:
        """The answer as it is written; a second iteration goes on where the first was left.

        Raises:
            R3mesError: the failure that the server told, as the class of its code.
        """
        return _TokenIterator(self)

    async def next_tokens(self) -> Tokens | None:
        """The next part of the answer, None behind the last; raises like `tokens`."""
        if self._done is not None:
            return None
        await self._grant()  # before a frame is taken: a cancel in here loses none
        match message := await self._next(self._token_patience()):
            case Tokens():
                self._count(message)
                return message
            case Done():
                self._open, self._done = False, message
                return None
            case Failed():
                self._open = False
                raise self._raised(message, self._stream.peer)
            case _:
                raise self._out_of_turn(message)

    async def done(self) -> Done:
        """The signed end; tokens that were not read are dropped."""
        while self._done is None:
            await self.next_tokens()
        return self._done

    async def receipt(self, countersignature: bytes) -> None:
        """Sign what was received; the last word of a call.  A server that left gets none."""
        await self._say(Receipt(countersignature))

    async def cancel(self) -> None:
        """Ask the server to write no more; it still sends the end of what it wrote."""
        if self._open:
            await self._say(Cancel())

    def _token_patience(self) -> float:
        return self._patience.token_s if self._position else self._first_token_s

    def _count(self, tokens: Tokens) -> None:
        if tokens.position != self._position:
            raise WireError(f"token {tokens.position} came where {self._position} was due")
        if self._text_is_whole:
            raise WireError("more came behind the rest of the text, which has no tokens")
        self._text_is_whole = not tokens.ids
        self._position += len(tokens.ids)
        self._read += 1

    async def _grant(self) -> None:
        if self._read >= _GRANT_FRAMES:
            self._owed += _GRANT_FRAMES
            await self._say(Credit(_GRANT_FRAMES))
            self._read -= _GRANT_FRAMES

    async def _say(self, message: Message) -> None:
        """Send, unless the peer is gone: what it sent before that is still read."""
        with suppress(PeerDisconnected):
            await self._stream.send(encode(message))

    async def _next(self, patience_s: float) -> Message:
        with trio.move_on_after(patience_s) as silence:
            try:
                message = await self._inbox.receive()
            except trio.EndOfChannel:
                raise self._error from None
        if silence.cancelled_caught:
            raise PeerDisconnected(f"{self._stream.peer} was silent for {patience_s:g} s")
        return message

    def _out_of_turn(self, message: Message) -> WireError:
        return WireError(f"{self._stream.peer} said {type(message).__name__} out of turn")

    async def _read_frames(self) -> None:
        with self._reading, self._inbox_in:
            try:
                while (frame := await self._stream.receive()) is not None:
                    self._take(decode(frame))
            except R3mesError as error:
                self._error = error

    def _take(self, message: Message) -> None:
        self._owed -= isinstance(message, Tokens)
        if self._owed < 0:
            raise WireError(f"{self._stream.peer} sends more than it was granted")
        try:
            self._inbox_in.send_nowait(message)
        except trio.WouldBlock:
            raise WireError(f"{self._stream.peer} says more than the protocol has") from None


class _TokenIterator:
    """Not an async generator: a loop that is left early has nothing to close."""

    def __init__(self, call: ClientCall) -> None:
        self._call = call

    def __aiter__(self) -> _TokenIterator:
        return self

    async def __anext__(self) -> Tokens:
        tokens = await self._call.next_tokens()
        if tokens is None:
            raise StopAsyncIteration
        return tokens
