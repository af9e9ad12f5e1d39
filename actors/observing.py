"""What happens to requests, told to whoever counts.

Figures, names of models, codes of errors; never text, keys, peers or accounts.  An observer is
called in the middle of the request's way: it neither waits nor raises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeAlias

import trio

from r3mes.actors.kernel.failure import real_error
from r3mes.actors.tracing import Fact, note
from r3mes.errors import R3mesError, Refused, RequestCancelled

Source: TypeAlias = Literal["api", "peer", "local"]
"""Who asked: an application (seen by the gateway), a peer, or this node itself (seen by serving).
So what the node answers to its own applications is seen twice."""
Outcome: TypeAlias = Literal["ok", "cancelled", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class Queued:
    """A request began to be written after so many seconds in the queue."""

    model: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Wrote:
    """Tokens came, so many seconds after those before them; not told of the first ones."""

    source: Source
    model: str
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A request came to its end.

    Args:
        model: as it was asked for; empty if that is not known.
        code: of the error that it ended with, empty if none.
        finish: ``stop``, ``length`` or ``cancelled``; empty if there was no answer.
        first_token_s: None if no token came.
    """

    source: Source
    model: str
    outcome: Outcome
    code: str
    finish: str
    seconds: float
    first_token_s: float | None
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Routed:
    """A candidate took a request (``local``, ``peer``), or there was ``none``."""

    result: Literal["local", "peer", "none"]


@dataclass(frozen=True, slots=True)
class FailedOver:
    """A candidate did not take a request, for the error of this code; the next one is asked."""

    code: str


@dataclass(frozen=True, slots=True)
class Receipted:
    """A receipt was stored (``kept``), was signed by both (``countersigned``), or will never be.

    Args:
        uremes: what it moves between this node and another; 0 when it paid itself.
    """

    role: Literal["server", "gateway"]
    outcome: Literal["kept", "countersigned", "lost"]
    uremes: int = 0


@dataclass(frozen=True, slots=True)
class EnvelopeRefusal:
    """A signed request did not hold."""

    reason: str


Event: TypeAlias = Queued | Wrote | Ended | Routed | FailedOver | Receipted | EnvelopeRefusal
Observer: TypeAlias = Callable[[Event], None]


def unobserved(event: Event) -> None:
    """Nobody counts."""


class Watched:
    """One request while it is under way; a context manager that tells how it ended.

    Args:
        tell: told of the tokens and of the end.
        source: who asked.
        model: what was asked for, as far as it is known.
        operation: in the words of OpenTelemetry, ``chat`` or ``embeddings``.
    """

    def __init__(
        self, tell: Observer, source: Source, model: str = "", *, operation: str = "chat"
    ) -> None:
        self._tell, self.source, self.model, self._operation = tell, source, model, operation
        self.finish = ""
        self.prompt_tokens = self.completion_tokens = 0
        self._first_token_s: float | None = None

    def __enter__(self) -> Self:
        self._began = self._last = trio.current_time()
        return self

    def wrote(self, tokens: int) -> None:
        """So many tokens more have come."""
        if not tokens:  # the last of a text, held back until it was whole
            return
        now = trio.current_time()
        if self._first_token_s is None:
            self._first_token_s = now - self._began
        else:
            self._tell(Wrote(self.source, self.model, tokens, now - self._last))
        self._last = now
        self.completion_tokens += tokens

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        outcome, code = _outcome(error, self.finish)
        ended = Ended(
            source=self.source,
            model=self.model,
            outcome=outcome,
            code=code,
            finish=self.finish,
            seconds=trio.current_time() - self._began,
            first_token_s=self._first_token_s,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
        )
        self._tell(ended)
        note(_facts(ended, self._operation))


def _facts(ended: Ended, operation: str) -> dict[str, Fact]:
    """For the trace; names that begin with ``gen_ai`` are OpenTelemetry's."""
    facts: dict[str, Fact] = {
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": ended.model,
        "gen_ai.usage.input_tokens": ended.prompt_tokens,
        "gen_ai.usage.output_tokens": ended.completion_tokens,
        "r3mes.source": ended.source,
        "r3mes.outcome": ended.outcome,
        "r3mes.finish": ended.finish,
    }
    if ended.first_token_s is not None:
        facts["r3mes.first_token_s"] = ended.first_token_s
    return facts


def _outcome(error: BaseException | None, finish: str) -> tuple[Outcome, str]:
    if error is None:
        return ("cancelled" if finish == "cancelled" else "ok"), ""
    reason = real_error(error)
    if not isinstance(reason, Exception):
        return "cancelled", ""  # trio.Cancelled: whoever asked has gone
    if isinstance(reason, RequestCancelled):
        return "cancelled", reason.kind.code
    code = (reason if isinstance(reason, R3mesError) else R3mesError()).kind.code
    return ("refused" if isinstance(reason, Refused) else "failed"), code
