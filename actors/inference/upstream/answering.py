"""One answer of an upstream server, from its lines to token ids."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from r3mes.actors.inference.generation import Ticket
from r3mes.actors.inference.protocol import Start, unpack_ids
from r3mes.actors.inference.upstream.dialects import OPTIONS, Dialect, Question, Said
from r3mes.actors.inference.upstream.retokenise import Retokeniser
from r3mes.errors import BadRequest, EngineError, UpstreamFailed

LINES_EACH, LINES_MORE = 4, 1000
"""Lines for each token, and beside them; a server that sends more sends nothing of use."""


def question_of(ticket: Ticket, model: str, dialect: Dialect, context: int) -> Question:
    """What to ask for.

    Raises:
        BadRequest: the server cannot do what is asked for.
        EngineError: it cannot go on with an answer that was begun elsewhere.
    """
    start = ticket.start
    if start.emitted and not dialect.by_ids:
        raise EngineError("the server behind the model cannot go on with another's answer")
    options = _options(start)
    if unknown := [name for name in options if name not in dialect.takes]:
        raise BadRequest(f"the server behind the model knows no {unknown[0]}", param=unknown[0])
    if ticket.tools and not dialect.by_ids:
        raise BadRequest("the server behind the model is shown no tools", param="tools")
    if start.grammar:
        raise BadRequest("another server follows no grammar", param="response_format")
    if start.logprobs:
        raise BadRequest("another server tells no logprobs", param="logprobs")
    return Question(
        model=model,
        ids=unpack_ids(start.prompt) + unpack_ids(start.emitted),
        messages=ticket.messages,
        max_new=start.max_new,
        temperature=start.temperature,
        top_p=start.top_p,
        options=options,
        seed=start.seed,
        context=context,
    )


def _options(start: Start) -> dict[str, Any]:
    """Those that say something."""
    biases = zip(unpack_ids(start.bias), start.biases, strict=True)
    said = {
        "top_k": start.top_k,
        "min_p": start.min_p,
        "presence_penalty": start.presence_penalty,
        "frequency_penalty": start.frequency_penalty,
        "repetition_penalty": start.repetition_penalty,
        "logit_bias": {str(token): by for token, by in biases},
    }
    return {name: value for name, value in said.items() if value != OPTIONS[name]}


@dataclass(slots=True)
class Reading:
    """Turns the lines of one answer into tokens.

    ``reason`` holds after `ids`, and ``told`` whether the server said it.

    Args:
        stop_ids: the answer ends before any of them.
        vocabulary: ids are below it.
        max_new: tokens after which it ends, whatever the server does.
    """

    dialect: Dialect
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    vocabulary: int
    max_new: int
    reason: str = ""
    told: bool = False
    _given: int = 0  # tokens, by the server
    _written: int = 0
    _cutter: Retokeniser = field(init=False)

    def __post_init__(self) -> None:
        self._cutter = Retokeniser(self.tokenizer)

    async def ids(self, lines: AsyncIterator[Mapping[str, Any]]) -> AsyncGenerator[tuple[int, ...]]:
        """The new tokens of each line, as far as they are certain.

        Raises:
            UpstreamFailed: a line is of another form, or the last one is missing.
        """
        number = 0
        async for line in lines:
            number += 1
            if number > self.max_new * LINES_EACH + LINES_MORE:
                raise UpstreamFailed("the server sends lines without end")
            said = self._hear(line)
            if new := self._take(self._cut(said)):
                yield new
            if said.reason and not self.reason:
                self.reason, self.told = said.reason, True
            if self.reason:
                return
        raise UpstreamFailed("the server hung up in the middle of the answer")

    def _hear(self, line: Mapping[str, Any]) -> Said:
        try:
            said = self.dialect.hear(line, self._given)
            self._given += len(said.ids or ())
            self._check(said)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UpstreamFailed(f"the server sent another form of answer: {error!r}") from None
        return said

    def _check(self, said: Said) -> None:
        if not all(0 <= token < self.vocabulary for token in said.ids or ()):
            raise ValueError("a token is not one of the tokenizer's")
        said.text.encode()  # half characters are no text

    def _cut(self, said: Said) -> Iterable[int]:
        if said.ids is not None:
            return said.ids
        new = self._cutter.feed(said.text)
        return (*new, *self._cutter.flush()) if said.reason else new

    def _take(self, ids: Iterable[int]) -> tuple[int, ...]:
        """Of new ids those that belong to the answer; sets ``reason`` where they end it."""
        taken: list[int] = []
        for token in ids:
            if token in self.stop_ids:
                self.reason = "stop"
                break
            taken.append(token)
            self._written += 1
            if self._written == self.max_new:
                self.reason = "length"
                break
        return tuple(taken)
