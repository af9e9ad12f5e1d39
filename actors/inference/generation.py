"""An answer as its reader sees it: chunks of ids and text, and how it ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
import trio

from r3mes.actors.inference.detokenise import Writer
from r3mes.actors.inference.protocol import Start
from r3mes.actors.inference.reserve import expected
from r3mes.actors.inference.shelf import Shelved
from r3mes.actors.inference.spelling import Spelling, records_of
from r3mes.errors import R3mesError

CHUNK_S = 0.03
"""Tokens of so many seconds go together, after the first one, which goes at once."""


@dataclass(frozen=True, slots=True)
class GenerateJob:
    """What to write.

    Args:
        model: name of a model that this node has, or ``model:adapter``.
        messages: the conversation, each with ``role`` and ``content``.
        emitted: token ids of this answer that were written before, here or elsewhere.
        max_tokens: most tokens to write *now*; None for as many as the context holds.
        temperature: 0 for the most probable token, always.
        top_k: 0 for all.
        seed: 0 … 2^63-1; the same seed gives the same answer.
        stop: the answer ends before any of these texts.
        min_p, presence_penalty, frequency_penalty, repetition_penalty, logit_bias: see
            `r3mes.actors.inference.sampling.Sampling`.
        logprobs: how many log-probabilities to tell of each token, its own the first; 0 for none.
        tools: that the model is shown, as OpenAI describes them.
        grammar_kind, grammar, call: what the answer must look like, as
            `r3mes.actors.requests.job.InferJob` has them.
    """

    model: str
    messages: Sequence[Mapping[str, object]]
    emitted: tuple[int, ...] = ()
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int = 0
    grammar_kind: str = ""
    grammar: str = ""
    tools: Sequence[Mapping[str, Any]] = ()
    call: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What was written since the last one; text may lag behind the ids by half a character.

    Args:
        logprobs: a record of `r3mes.actors.requests.logprobs` for each of ``ids``, if asked for.
    """

    ids: tuple[int, ...]
    text: str
    logprobs: tuple[bytes, ...] = ()


Piece: TypeAlias = tuple[tuple[int, ...], bytes]
"""New token ids, and their log-probabilities as the worker tells them."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A place in the queue, then a stream of token ids; shared by the actor and one reader.

    Args:
        deadline: on trio's clock; begun later the answer is worthless.
        adapter: with which it is written.
        messages: what the prompt was made of, besides tools.
        tools: whether it was made of some.
    """

    start: Start
    deadline: float
    adapter: Shelved | None = None
    messages: Sequence[Mapping[str, object]] = ()
    tools: bool = False
    queued_at: float = field(default_factory=trio.current_time)
    began: trio.Event = field(default_factory=trio.Event)
    began_at: float = 0.0
    position: int = 0
    reason: str = ""
    error: R3mesError | None = None
    retried: bool = False
    ids_in: trio.MemorySendChannel[Piece] = field(init=False)
    ids_out: trio.MemoryReceiveChannel[Piece] = field(init=False)

    def __post_init__(self) -> None:
        # One message a token at most, so a slow reader holds up nobody and costs little.
        self.ids_in, self.ids_out = trio.open_memory_channel(self.start.max_new + 1)
        self.position = len(self.start.emitted) // 4

    @property
    def expected(self) -> int:
        """Room for keys and values that it will take in the end."""
        written = self.position - len(self.start.emitted) // 4
        tokens = len(self.start.prompt) // 4 + self.position
        return expected(tokens, self.start.max_new - written)

    @property
    def untold(self) -> bool:
        """Whether its reader has no token yet, so that it may begin anew."""
        return self.position == len(self.start.emitted) // 4

    def begin(self) -> Start:
        """Its turn has come; what the worker is told."""
        self.began_at = trio.current_time()
        self.began.set()
        if self.adapter is None:
            return self.start
        self.adapter.used_at = self.began_at
        return msgspec.structs.replace(self.start, adapter=self.adapter.number)

    def write(self, ids: tuple[int, ...], logprobs: bytes = b"") -> bool:
        """Pass on new tokens; False if nobody reads them, or more come than were asked for."""
        self.position += len(ids)
        try:
            self.ids_in.send_nowait((ids, logprobs))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.WouldBlock):
            return False
        return True

    def end(self, reason: str = "", error: R3mesError | None = None) -> None:
        """Nothing more comes; what was said first holds."""
        if self.reason or self.error:
            return
        self.reason, self.error = reason, error
        self.ids_in.close()
        self.began.set()


class Generation:
    """One answer being written; iterate it for its chunks.

    ``finish_reason`` holds after the iteration: ``stop``, ``length`` or ``cancelled``.
    """

    def __init__(
        self,
        prompt_ids: tuple[int, ...],
        ticket: Ticket,
        writer: Writer,
        withdraw: Callable[[], None],
        spell: Spelling,
        calls: str = "",
    ) -> None:
        self.prompt_ids = prompt_ids
        self.finish_reason = ""
        self._ticket, self._writer, self._withdraw = ticket, writer, withdraw
        self._spell = spell
        self.calls = calls
        """The form in which the model writes calls of tools; empty if it was shown none."""
        self._logprobs: list[bytes] = []
        self._output: list[int] = []
        self._ids: list[int] = []  # of the chunk being gathered
        self._text = ""
        self._next_at = 0.0

    @property
    def output_ids(self) -> tuple[int, ...]:
        """What was written so far, without what was emitted before."""
        return tuple(self._output)

    @property
    def completion_tokens(self) -> int:
        return len(self._output)

    @property
    def queue_s(self) -> float:
        """How long it waited for its turn."""
        return self._ticket.began_at - self._ticket.queued_at

    def cancel(self) -> None:
        """Write no more; the iteration ends soon, with ``cancelled``."""
        self._withdraw()

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        """Raises `EngineCrashed` when the worker died under the answer."""
        if not self.finish_reason:
            await self._gather_one()
            with trio.move_on_at(self._next_at):
                while not self.finish_reason:
                    await self._gather_one()
        if not self._ids and not self._text:
            raise StopAsyncIteration
        chunk = Chunk(tuple(self._ids), self._text, tuple(self._logprobs[: len(self._ids)]))
        self._output += self._ids
        self._ids, self._text, self._logprobs = [], "", []
        self._next_at = trio.current_time() + CHUNK_S
        return chunk

    async def _gather_one(self) -> None:
        try:
            ids, logprobs = await self._ticket.ids_out.receive()
        except trio.EndOfChannel:
            if self._ticket.error is not None:
                raise self._ticket.error from None
            self._text += self._writer.finish()
            self.finish_reason = "stop" if self._writer.stopped else self._ticket.reason
            return
        if logprobs:
            count = self._ticket.start.logprobs
            self._logprobs += records_of(logprobs, count, self._spell)
        for token in ids:
            self._ids.append(token)
            self._text += self._writer.feed(token)
            if self._writer.stopped:
                self.finish_reason = "stop"
                self._withdraw()
                return
