"""Where the time of a request goes: its way in parts, told to whoever keeps traces.

Parts are marked where they happen, ``with part("r3mes.queue"): …``, and the one that runs now is in
a context variable, which trio hands on to tasks that are started.  Who keeps them is
`r3mes.node.otel`; without it, and in a request that is not traced, a part costs two looks at that
variable.

A fact about a part is a figure, the name of a model, the code of an error, or a peer id; never
text, a key or an account.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, TypeAlias

from r3mes.actors.kernel.failure import real_error
from r3mes.errors import R3mesError

Fact: TypeAlias = str | int | float
Role: TypeAlias = Literal["inner", "server", "client"]
"""Of a part: it serves somebody else, or asks somebody else, or neither."""

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Caller:
    """The part, elsewhere, that a request comes from.

    Args:
        trace_id: 16 bytes, as a number.
        span_id: 8 bytes, as a number.
        sampled: it is kept there.
        trusted: it is an application of this node, or this node itself.
    """

    trace_id: int
    span_id: int
    sampled: bool
    trusted: bool


def caller(traceparent: str, *, trusted: bool) -> Caller | None:
    """Who is named in a ``traceparent``; None if that is empty or not whole and right.

    Source: W3C Trace Context, section 3.2; left out: versions above 00, which nobody writes yet.
    """
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    trace_id, span_id, flags = (int(digits, 16) for digits in found.groups())
    if not trace_id or not span_id:
        return None
    return Caller(trace_id, span_id, bool(flags & SAMPLED), trusted)


class Span(Protocol):
    """One part of a request's way, under way."""

    @property
    def trace_id(self) -> str:
        """32 hex digits; empty if it is not kept."""
        ...

    @property
    def traceparent(self) -> str:
        """It, for whoever is asked in it; empty if it is not kept."""
        ...

    def begin(self, name: str, role: Role) -> Span:
        """A part of this one, from now on."""
        ...

    def note(self, facts: Mapping[str, Fact]) -> None:
        """Keep what is known of it now."""
        ...

    def end(self, code: str) -> None:
        """It is over, with the error of ``code``, or well if that is empty."""
        ...


class Tracer(Protocol):
    """Keeps traces, or not; neither waits nor raises."""

    def begin(self, name: str, role: Role, caller: Caller | None) -> Span:
        """The first part that a request has on this node; decides whether it is traced."""
        ...


class _Unkept:
    """Of a request that is not traced; its parts are like it."""

    trace_id = traceparent = ""

    def begin(self, name: str, role: Role) -> Span:
        return self

    def note(self, facts: Mapping[str, Fact]) -> None:
        pass

    def end(self, code: str) -> None:
        pass


UNKEPT: Span = _Unkept()
_OUTSIDE: Span = _Unkept()
"""Not in a request that anybody decided about."""


class NoTracer:
    """Traces nothing."""

    def begin(self, name: str, role: Role, caller: Caller | None) -> Span:
        return UNKEPT


NO_TRACER: Tracer = NoTracer()
_now: ContextVar[Span] = ContextVar("part of a request", default=_OUTSIDE)


class part:  # noqa: N801  reads as a statement: with part(…)
    """A part of the request that is under way here, while the block runs."""

    __slots__ = ("_before", "_name", "_role", "_span")

    def __init__(self, name: str, role: Role = "inner") -> None:
        self._name, self._role = name, role

    def __enter__(self) -> Span:
        self._before = _now.get()
        self._span = self._begin()
        if self._span is not self._before:
            _now.set(self._span)
        return self._span

    def _begin(self) -> Span:
        return self._before.begin(self._name, self._role)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._span is not self._before:
            _now.set(self._before)  # and not by a token: the end may come in another context
            self._span.end(_code(error))


class first_part(part):  # noqa: N801
    """The first part of a request on this node, while the block runs.

    Args:
        tracer: decides whether it is traced.
        caller: who asks in a trace, None if nobody does.
        or_part: the request may have begun here already: then this is a part of it.
    """

    __slots__ = ("_caller", "_or_part", "_tracer")

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        role: Role,
        *,
        caller: Caller | None = None,
        or_part: bool = False,
    ) -> None:
        super().__init__(name, role)
        self._tracer, self._caller, self._or_part = tracer, caller, or_part

    def _begin(self) -> Span:
        if self._or_part and self._before is not _OUTSIDE:
            return self._before.begin(self._name, "inner")
        return self._tracer.begin(self._name, self._role, self._caller)


def note(facts: Mapping[str, Fact]) -> None:
    """Keep ``facts`` about the part that runs now, if it is traced."""
    _now.get().note(facts)


def traceparent() -> str:
    """The part that runs now, for another node; empty if it is not traced."""
    return _now.get().traceparent


def trace_id() -> str:
    """The trace that the part belongs to which runs now, 32 hex digits; empty if to none."""
    return _now.get().trace_id


def _code(error: BaseException | None) -> str:
    """The code of an error and no more of it: what it says may quote what callers sent."""
    if error is None:
        return ""
    reason = real_error(error)
    if not isinstance(reason, Exception):
        return "cancelled"
    return (reason if isinstance(reason, R3mesError) else R3mesError()).kind.code
