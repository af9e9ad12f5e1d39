"""The parts of a request, who is named in a traceparent, and what an error leaves in a trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from r3mes.actors.tracing import (
    NO_TRACER,
    UNKEPT,
    Caller,
    Fact,
    Role,
    Span,
    caller,
    first_part,
    note,
    part,
    trace_id,
    traceparent,
)
from r3mes.errors import Overloaded, R3mesError

TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
TRACEPARENT = f"00-{TRACE:032x}-{SPAN:016x}-01"


@dataclass
class Noted:
    """A span that remembers all."""

    name: str
    role: Role
    number: int = 1
    facts: dict[str, Fact] = field(default_factory=dict)
    parts: list[Noted] = field(default_factory=list)
    ended: str | None = None
    trace_id: str = f"{TRACE:032x}"

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.number:016x}-01"

    def begin(self, name: str, role: Role) -> Span:
        self.parts.append(Noted(name, role, self.number * 10 + len(self.parts)))
        return self.parts[-1]

    def note(self, facts: Mapping[str, Fact]) -> None:
        self.facts.update(facts)

    def end(self, code: str) -> None:
        assert self.ended is None
        self.ended = code


class Tracer:
    """Traces every request and remembers who asked."""

    def __init__(self) -> None:
        self.traces: list[Noted] = []
        self.callers: list[Caller | None] = []

    def begin(self, name: str, role: Role, caller: Caller | None) -> Span:
        self.traces.append(Noted(name, role))
        self.callers.append(caller)
        return self.traces[-1]


def test_a_traceparent() -> None:
    assert caller(TRACEPARENT, trusted=True) == Caller(TRACE, SPAN, sampled=True, trusted=True)
    for flags, sampled in (("00", False), ("02", False), ("03", True), ("ff", True)):
        found = caller(TRACEPARENT[:-2] + flags, trusted=False)
        assert found == Caller(TRACE, SPAN, sampled=sampled, trusted=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        TRACEPARENT.upper(),
        TRACEPARENT[:-1],
        TRACEPARENT + "0",
        TRACEPARENT + "-00",
        TRACEPARENT + "\n",
        f" {TRACEPARENT}",
        f"{TRACEPARENT}, {TRACEPARENT}",
        TRACEPARENT.replace("00-", "01-", 1),
        TRACEPARENT.replace("00-", "ff-", 1),
        TRACEPARENT.replace("-", "_"),
        TRACEPARENT.replace("a", "٣"),
        TRACEPARENT.replace("a", "g"),
        f"00-{0:032x}-{SPAN:016x}-01",
        f"00-{TRACE:032x}-{0:016x}-01",
    ],
)
def test_what_is_no_traceparent_names_nobody(text: str) -> None:
    assert caller(text, trusted=True) is None


@given(st.text(max_size=60))
def test_no_text_is_too_much(text: str) -> None:
    found = caller(text, trusted=False)
    assert found is None or len(text) == len(TRACEPARENT)


def test_parts_are_parts_of_the_one_around_them() -> None:
    tracer = Tracer()
    with first_part(tracer, "whole", "server"):
        with part("one"):
            note({"tokens": 3})
            with part("inner", "client") as inner:
                assert traceparent() == inner.traceparent
        with part("two"):
            pass
        assert trace_id() == f"{TRACE:032x}"
    (whole,) = tracer.traces
    one, two = whole.parts
    assert (one.name, one.facts, two.name) == ("one", {"tokens": 3}, "two")
    assert [(each.name, each.role) for each in one.parts] == [("inner", "client")]
    assert whole.ended == one.ended == two.ended == one.parts[0].ended == ""
    assert trace_id() == traceparent() == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Overloaded("8 wait"), "overloaded"),
        (R3mesError("who knows"), "internal_error"),
        (ValueError("a secret"), "internal_error"),
        (ExceptionGroup("of trio", [Overloaded("8 wait")]), "overloaded"),
    ],
)
def test_of_an_error_its_code_is_kept_alone(error: Exception, code: str) -> None:
    tracer = Tracer()
    with pytest.raises(type(error)), first_part(tracer, "whole", "server"), part("one"):
        raise error
    (whole,) = tracer.traces
    assert (whole.ended, whole.parts[0].ended) == (code, code)


async def test_a_request_that_was_given_up() -> None:
    tracer = Tracer()
    with trio.CancelScope() as scope, first_part(tracer, "whole", "server"):
        scope.cancel()
        await trio.lowlevel.checkpoint()
    assert tracer.traces[0].ended == "cancelled"


async def test_tasks_that_a_part_starts_belong_to_it_and_others_do_not() -> None:
    seen: list[str] = []

    async def look() -> None:
        seen.append(trace_id())

    async with trio.open_nursery() as nursery:
        with first_part(Tracer(), "whole", "server"):
            nursery.start_soon(look)
        nursery.start_soon(look)
    assert sorted(seen) == ["", f"{TRACE:032x}"]


def test_a_request_that_is_not_traced_stays_so() -> None:
    tracer = Tracer()
    with first_part(NO_TRACER, "whole", "server") as whole:
        with first_part(tracer, "again", "server", or_part=True) as again, part("one") as one:
            assert traceparent() == trace_id() == ""
        assert whole is again is one is UNKEPT
    assert tracer.traces == []


def test_a_first_part_may_be_one_of_a_request_that_has_begun() -> None:
    tracer = Tracer()
    with first_part(tracer, "request", "server", or_part=True):
        pass
    with first_part(tracer, "http", "server"):
        with first_part(tracer, "request", "server", or_part=True):
            pass
        with first_part(tracer, "of another", "server"):
            pass
    assert [one.name for one in tracer.traces] == ["request", "http", "of another"]
    assert [(one.name, one.role) for one in tracer.traces[1].parts] == [("request", "inner")]
