"""The answers to one chat request, written side by side, each as its caller sees it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import trio

from r3mes.actors.kernel.failure import real_error
from r3mes.actors.requests.logprobs import Logprob
from r3mes.node.http.ports import Answer
from r3mes.node.http.tool_calls import Call, Piece, reader_of

Opening: TypeAlias = AbstractAsyncContextManager[Answer]
"""Entering it finds somebody who answers; leaving it early cancels the answer."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new in a choice.

    Args:
        text: behind the text so far.
        calls: of tools, each with its place among all.
        logprobs: of the tokens behind both.
    """

    text: str = ""
    calls: tuple[tuple[int, Call], ...] = ()
    logprobs: tuple[Sequence[Logprob], ...] = ()


class Choice:
    """One of the answers.

    Args:
        index: its place among them.
        answer: whose text it is.
        one_call: what it calls after the first is dropped.

    Its text, calls and logprobs are what a listener had it keep.
    """

    def __init__(self, index: int, answer: Answer, *, one_call: bool = False) -> None:
        self.index, self.answer = index, answer
        self._reader, self._one_call = reader_of(answer.calls), one_call
        self._called = 0
        self.text = ""
        self.calls: list[Call] = []
        self.logprobs: list[Sequence[Logprob]] = []

    @property
    def finish_reason(self) -> str:
        """As OpenAI names it; holds when the answer has ended."""
        ended = self.answer.finish_reason
        return "tool_calls" if self._called and ended == "stop" else ended

    def take(self, text: str) -> Delta | None:
        """The answer goes on with ``text``; None if that tells nothing yet."""
        pieces = self._reader.feed(text)
        return self._delta(pieces) if pieces else None

    def finish(self) -> Delta:
        """The answer has ended: what was not told yet."""
        return self._delta(self._reader.end())

    def _delta(self, pieces: Sequence[Piece]) -> Delta:
        text = "".join(piece for piece in pieces if isinstance(piece, str))
        calls = [piece for piece in pieces if isinstance(piece, Call)]
        if self._one_call:
            calls = calls[: 1 - min(1, self._called)]
        numbered = tuple(enumerate(calls, self._called))
        self._called += len(calls)
        return Delta(text, numbered, tuple(self.answer.new_logprobs()))

    def keep(self, delta: Delta) -> None:
        """Have ``delta`` at the end too."""
        self.text += delta.text
        self.calls += [call for _, call in delta.calls]
        self.logprobs += delta.logprobs


class Listener(Protocol):
    """Is told of all choices as they are written; whoever tells waits for it."""

    async def began(self, choice: Choice) -> None:
        """Somebody writes it."""

    async def wrote(self, choice: Choice, delta: Delta) -> None:
        """It goes on."""

    async def ended(self, choice: Choice, rest: Delta) -> None:
        """It is whole, its receipt kept; ``rest`` has the logprobs that were not told yet."""


class Kept:
    """A `Listener` that waits for the end, and has all kept until then."""

    async def began(self, choice: Choice) -> None: ...

    async def wrote(self, choice: Choice, delta: Delta) -> None:
        choice.keep(delta)

    async def ended(self, choice: Choice, rest: Delta) -> None:
        choice.keep(rest)


KEPT = Kept()


async def write_choices(
    openings: Sequence[Opening], listener: Listener = KEPT, *, one_call: bool = False
) -> Sequence[Choice]:
    """Have all answers written at the same time; one that fails ends the others.

    Args:
        openings: of the answers, one for each choice.
        listener: is told as they come; without one the choices keep all.
        one_call: what a choice calls after the first is dropped.

    Raises:
        R3mesError: the first failure.
    """
    choices: dict[int, Choice] = {}

    async def write(index: int, opening: Opening) -> None:
        async with opening as answer:
            choice = choices[index] = Choice(index, answer, one_call=one_call)
            await listener.began(choice)
            async for text in answer:
                if (delta := choice.take(text)) is not None:
                    await listener.wrote(choice, delta)
        rest = choice.finish()
        if rest.text or rest.calls:
            await listener.wrote(choice, rest)
            rest = Delta()
        await listener.ended(choice, rest)

    try:
        async with trio.open_nursery() as nursery:
            for index, opening in enumerate(openings):
                nursery.start_soon(write, index, opening)
    except ExceptionGroup as group:
        raise (real_error(group) or group) from None
    return [choices[index] for index in sorted(choices)]
