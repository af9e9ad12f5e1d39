"""Which requests are traced, whose spans they become, and what happens when nobody takes them."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from random import Random

import pytest
import trio
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from r3mes.actors.tracing import UNKEPT, Caller, first_part
from r3mes.config.schema import Otel
from r3mes.ids import PeerId
from r3mes.node.otel import FACT_CHARS, STRANGERS_A_MINUTE, OtelTracer, Telling, provider, tracing

OWN = PeerId("12D3KooWexample")
TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


def asking(*, sampled: bool = True, trusted: bool = True) -> Caller:
    return Caller(TRACE, SPAN, sampled, trusted)


class Traces:
    def __init__(self, ratio: float) -> None:
        self._spans = InMemorySpanExporter()
        random = Random(7)  # noqa: S311
        self.tracer = OtelTracer(provider(SimpleSpanProcessor(self._spans), OWN), ratio, random)

    @property
    def all(self) -> Sequence[ReadableSpan]:
        return self._spans.get_finished_spans()

    def kept(self, caller: Caller | None, times: int = 1) -> int:
        before = len(self.all)
        for _ in range(times):
            with first_part(self.tracer, "request", "server", caller=caller):
                pass
        return len(self.all) - before


async def test_a_part_of_the_requests_that_nobody_asks_to_trace() -> None:
    assert Traces(1.0).kept(None, 50) == 50
    assert Traces(0.0).kept(None, 50) == 0
    assert 60 < Traces(0.5).kept(None, 200) < 140


async def test_applications_decide_for_themselves() -> None:
    assert Traces(0.0).kept(asking(), 500) == 500
    assert Traces(1.0).kept(asking(sampled=False), 50) == 0


async def test_strangers_are_heeded_so_often_and_no_more(autojump_clock: trio.abc.Clock) -> None:
    traces, stranger = Traces(0.0), asking(trusted=False)
    assert traces.kept(stranger, 500) == STRANGERS_A_MINUTE
    await trio.sleep(10)
    assert traces.kept(stranger, 500) == STRANGERS_A_MINUTE / 6
    await trio.sleep(3600)
    assert traces.kept(stranger, 500) == STRANGERS_A_MINUTE
    assert traces.kept(asking()) == 1
    assert Traces(1.0).kept(stranger, 500) == 500
    assert Traces(1.0).kept(asking(trusted=False, sampled=False)) == 0


async def test_a_span_goes_on_where_the_caller_is() -> None:
    traces = Traces(0.0)
    traces.kept(asking())
    (span,) = traces.all
    assert span.context.trace_id == TRACE
    assert span.parent is not None
    assert (span.parent.span_id, span.parent.is_remote) == (SPAN, True)
    assert span.kind is trace.SpanKind.SERVER
    assert span.resource.attributes["service.instance.id"] == OWN


async def test_a_traceparent_names_its_span() -> None:
    traces = Traces(1.0)
    with first_part(traces.tracer, "request", "server") as part:
        assert part.traceparent.split("-") == ["00", part.trace_id, part.traceparent[36:52], "01"]
    (span,) = traces.all
    assert f"{span.context.trace_id:032x}-{span.context.span_id:016x}" in part.traceparent


async def test_facts_are_bounded() -> None:
    traces = Traces(1.0)
    with first_part(traces.tracer, "request", "server") as part:
        part.note({"gen_ai.request.model": "m" * 9999})
    (span,) = traces.all
    assert span.attributes == {"gen_ai.request.model": "m" * FACT_CHARS}


async def test_what_libraries_trace_by_themselves_is_not_taken() -> None:
    traces = Traces(1.0)
    with first_part(traces.tracer, "request", "server"):
        assert not trace.get_current_span().is_recording()
        with trace.get_tracer("fastapi").start_as_current_span("GET /secret"):
            pass
    assert [span.name for span in traces.all] == ["request"]


class Flaky(SpanExporter):
    def __init__(self, results: Sequence[bool]) -> None:
        self._results = list(results)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS if self._results.pop(0) else SpanExportResult.FAILURE


async def test_failure_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    traces = Traces(1.0)
    traces.kept(None, 3)
    exporter = Telling(Flaky([True, False, False, False, True, True]), "http://collector")
    with caplog.at_level(logging.DEBUG):
        for _ in range(6):
            exporter.export(traces.all)
    assert caplog.messages == [
        "traces cannot be delivered to http://collector and are lost",
        "traces are delivered again; 9 spans were lost",
    ]


@pytest.mark.net
@pytest.mark.parametrize("answers", [False, True])
async def test_a_collector_that_is_dead_or_silent_holds_up_nothing(*, answers: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        port = listener.getsockname()[1]
        if not answers:
            listener.close()
        with trio.fail_after(3):  # of 10 s that the library would wait
            async with tracing(Otel(), f"http://127.0.0.1:{port}/v1/traces", OWN) as tracer:
                for _ in range(5000):  # more than the queue holds
                    with first_part(tracer, "request", "server") as part:
                        assert part is not UNKEPT
