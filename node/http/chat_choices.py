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

Opening: TypeAlias = AbstractAsyncContextManager[Answer]
"""Entering it finds somebody who answers; leaving it early cancels the answer."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new in a choice: text, and the log-probabilities of the tokens behind it."""

    text: str = ""
    logprobs: tuple[Sequence[Logprob], ...] = ()


class Choice:
    """One of the answers.

    Args:
        index: its place among them.
        answer: whose text it is.
    """

    def __init__(self, index: int, answer: Answer) -> None:
        self.index, self.answer = index, answer
        self.text = ""
        self.logprobs: list[Sequence[Logprob]] = []

    @property
    def finish_reason(self) -> str:
        """As OpenAI names it; holds when the answer has ended."""
        return self.answer.finish_reason

    def take(self, text: str) -> Delta:
        """The answer goes on with ``text``."""
        delta = Delta(text, tuple(self.answer.new_logprobs()))
        self.text += delta.text
        self.logprobs += delta.logprobs
        return delta


class Listener(Protocol):
    """Is told of all choices as they are written; whoever tells waits for it."""

    async def began(self, choice: Choice) -> None:
        """Somebody writes it."""

    async def wrote(self, choice: Choice, delta: Delta) -> None:
        """It goes on."""

    async def ended(self, choice: Choice, rest: Delta) -> None:
        """It is whole, its receipt kept; ``rest`` is what was not told yet."""


class Unheard:
    """A `Listener` that waits for the end."""

    async def began(self, choice: Choice) -> None: ...
    async def wrote(self, choice: Choice, delta: Delta) -> None: ...
    async def ended(self, choice: Choice, rest: Delta) -> None: ...


UNHEARD = Unheard()


async def write_choices(
    openings: Sequence[Opening], listener: Listener = UNHEARD
) -> Sequence[Choice]:
    """Have all answers written at the same time; one that fails ends the others.

    Raises:
        R3mesError: the first failure.
    """
    choices: dict[int, Choice] = {}

    async def write(index: int, opening: Opening) -> None:
        async with opening as answer:
            choice = choices[index] = Choice(index, answer)
            await listener.began(choice)
            async for text in answer:
                await listener.wrote(choice, choice.take(text))
        await listener.ended(choice, choice.take(""))

    try:
        async with trio.open_nursery() as nursery:
            for index, opening in enumerate(openings):
                nursery.start_soon(write, index, opening)
    except ExceptionGroup as group:
        raise (real_error(group) or group) from None
    return [choices[index] for index in sorted(choices)]
