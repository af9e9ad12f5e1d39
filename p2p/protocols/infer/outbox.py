"""Tokens on their way out: gathered into frames, held back while the reader has given no credit."""

from __future__ import annotations

from math import inf

import trio

from r3mes.errors import PeerDisconnected, WireError
from r3mes.p2p.protocols.infer.messages import (
    CREDIT_FRAMES,
    FRAME_RECORDS_CAP,
    FRAME_TEXT_CAP,
    FRAME_TOKEN_CAP,
    Tokens,
    encode,
)
from r3mes.p2p.streams import FrameStream

GATHER_S = 0.03
"""Least time between two frames while tokens come faster: a frame costs 0.25 ms of CPU."""
CREDIT_S = 60.0
"""A reader that gives no credit for so long counts as gone."""
_HELD_IDS, _HELD_CHARS = FRAME_TOKEN_CAP // 4, FRAME_TEXT_CAP // 8
"""What is gathered before `put` waits; one more chunk of an engine still fits the frame."""


class Outbox:
    """Gathers the tokens of one answer; `run` sends them."""

    def __init__(self, stream: FrameStream) -> None:
        self._stream, self._credit = stream, CREDIT_FRAMES
        self._ids: list[int] = []
        self._texts: list[str] = []
        self._logprobs: list[bytes] = []  # none, or one for each id
        self._chars = self._position = 0
        self._sending = self._flushing = False
        self._change = trio.Event()

    async def put(self, ids: tuple[int, ...], text: str, logprobs: tuple[bytes, ...] = ()) -> None:
        """Add to the answer; waits while too much is held."""
        while self._is_full():
            await self._change.wait()
        if ids or text:
            self._ids += ids
            self._logprobs += logprobs
            self._texts.append(text)
            self._chars += len(text)
            self._stir()

    async def flush(self) -> None:
        """Wait until all that was put has been sent."""
        self._flushing = True
        self._stir()
        while self._texts or self._sending:
            await self._change.wait()

    def grant(self, frames: int) -> None:
        """The reader takes ``frames`` frames more.

        Raises:
            WireError: more credit than a reader may owe.
        """
        if not 0 < frames <= CREDIT_FRAMES - self._credit:
            raise WireError(f"credit of {frames} frames where {CREDIT_FRAMES} are the limit")
        self._credit += frames
        self._stir()

    async def run(self) -> None:
        """Send what is put, for ever.

        Raises:
            PeerDisconnected: the stream is gone, or no credit came for `CREDIT_S`.
        """
        due = -inf
        while True:
            while not self._texts:
                await self._change.wait()
            with trio.move_on_at(due):
                while not (self._flushing or self._is_full()):
                    await self._change.wait()
            await self._spend()
            await self._send()
            due = trio.current_time() + GATHER_S

    async def _spend(self) -> None:
        with trio.move_on_after(CREDIT_S):
            while not self._credit:
                await self._change.wait()
        if not self._credit:
            raise PeerDisconnected(f"{self._stream.peer} took no tokens for {CREDIT_S:g} s")
        self._credit -= 1

    async def _send(self) -> None:
        tokens = self._cut()
        self._position += len(tokens.ids)
        self._chars, self._sending = sum(map(len, self._texts)), True
        self._stir()
        await self._stream.send(encode(tokens))
        self._sending = False
        self._stir()

    def _cut(self) -> Tokens:
        """Take what one frame may hold out of what was gathered.

        Text over its cap, of very long tokens, is spread over frames of a token each: only the last
        frame of an answer may come without any.
        """
        text = "".join(self._texts)
        head = text.encode()[:FRAME_TEXT_CAP].decode(errors="ignore")
        rest = text[len(head) :]
        most = FRAME_RECORDS_CAP if self._logprobs else FRAME_TOKEN_CAP
        count = 1 if rest else min(most, len(self._ids))
        records = tuple(self._logprobs[:count])
        tokens = Tokens(self._position, tuple(self._ids[:count]), head, records)
        del self._ids[:count], self._logprobs[:count]
        self._texts = [rest] if rest or self._ids else []
        return tokens

    def _is_full(self) -> bool:
        return len(self._ids) >= _HELD_IDS or self._chars >= _HELD_CHARS

    def _stir(self) -> None:
        self._change.set()
        self._change = trio.Event()
