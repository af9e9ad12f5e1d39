"""Traces as OpenTelemetry has them, sent to a collector; the only module that imports its library.

Spans wait in a bounded queue that a thread of the library's empties, so neither a slow collector
nor a dead one holds up an answer; what does not fit in the queue is lost.  Nothing is registered
globally: libraries that would trace by themselves (FastAPI does) find nobody to tell.

Source: OpenTelemetry specification, trace SDK and OTLP/HTTP; W3C Trace Context.  Left out: baggage
and tracestate, which carry what callers please.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from random import Random
from typing import Final

import trio
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from r3mes.actors.tracing import UNKEPT, Caller, Fact, Role, Span, Tracer
from r3mes.config.schema import Otel
from r3mes.ids import PeerId

logger = logging.getLogger(__name__)

QUEUE_SPANS, BATCH_SPANS = 2048, 512
BATCH_S = 2.0
"""How often a batch is sent that is not full."""
EXPORT_S = 5.0
"""How long sending a batch may take, with repetitions; then its spans are lost."""
FLUSH_S = 0.5
"""How long the end of the node waits for the last batch; less than `ending.GRACE`."""
FACT_CHARS = 256
"""Most characters of a fact; names of models come from callers."""
STRANGERS_A_MINUTE = 60
"""Traces that are kept because peers ask for them; beyond that the node's own ratio decides."""

_KINDS: Final[dict[Role, trace.SpanKind]] = {
    "inner": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
}


@asynccontextmanager
async def tracing(config: Otel, endpoint: str, own: PeerId) -> AsyncIterator[Tracer]:
    """A tracer that sends to ``endpoint`` while the block runs, and what is left at its end."""
    _quiet()
    exporter = OTLPSpanExporter(endpoint, timeout=EXPORT_S, compression=Compression.Gzip)
    processor = BatchSpanProcessor(
        Telling(exporter, endpoint),
        max_queue_size=QUEUE_SPANS,
        max_export_batch_size=BATCH_SPANS,
        schedule_delay_millis=BATCH_S * 1000,
    )
    try:
        yield OtelTracer(provider(processor, own), config.ratio, Random())  # noqa: S311
    finally:
        with trio.move_on_after(FLUSH_S, shield=True):
            await trio.to_thread.run_sync(processor.shutdown, abandon_on_cancel=True)


def provider(processor: SpanProcessor, own: PeerId) -> TracerProvider:
    """Of the library; takes nothing from the environment, and keeps whatever it is given."""
    who = {
        "service.name": "r3mes",
        "service.version": version("r3mes"),
        "service.instance.id": own,
    }
    made = TracerProvider(
        sampler=ALWAYS_ON,
        resource=Resource(who),
        span_limits=SpanLimits(max_attribute_length=FACT_CHARS),
        shutdown_on_exit=False,
    )
    made.add_span_processor(processor)
    return made


class OtelTracer:
    """Decides once for each request whether it is traced.

    An application of this node decides for itself, by the flag of its ``traceparent``.  Peers do
    as well, but `STRANGERS_A_MINUTE` at most; everybody else has ``ratio``.

    Args:
        provider: makes the spans.
        ratio: of the requests that nobody asks to trace, 0 to 1.
        random: decides about them.
    """

    def __init__(self, provider: TracerProvider, ratio: float, random: Random) -> None:
        self._tracer = provider.get_tracer("r3mes", version("r3mes"))
        self._ratio, self._random = ratio, random
        self._strangers = float(STRANGERS_A_MINUTE)
        self._strangers_at = trio.current_time()

    def begin(self, name: str, role: Role, caller: Caller | None) -> Span:
        if not self._wanted(caller):
            return UNKEPT
        return OtelSpan.of(self._tracer, name, role, _context(caller))

    def _wanted(self, caller: Caller | None) -> bool:
        if caller is not None and not caller.sampled:
            return False
        if caller is not None and (caller.trusted or self._has_room_for_strangers()):
            return True
        return self._random.random() < self._ratio

    def _has_room_for_strangers(self) -> bool:
        now = trio.current_time()
        more = (now - self._strangers_at) * STRANGERS_A_MINUTE / 60
        self._strangers = min(self._strangers + more, STRANGERS_A_MINUTE)
        self._strangers_at = now
        if self._strangers < 1:
            return False
        self._strangers -= 1
        return True


def _context(caller: Caller | None) -> Context:
    """What the library takes for the parent; never the one that it finds by itself."""
    if caller is None:
        return Context()
    there = trace.SpanContext(
        caller.trace_id,
        caller.span_id,
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(there), Context())


class OtelSpan:
    """A part of a request that is kept."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer, self._span = tracer, span
        at = span.get_span_context()
        self.trace_id = trace.format_trace_id(at.trace_id)
        self.traceparent = f"00-{self.trace_id}-{trace.format_span_id(at.span_id)}-01"

    @classmethod
    def of(cls, tracer: trace.Tracer, name: str, role: Role, context: Context) -> OtelSpan:
        return cls(tracer, tracer.start_span(name, context, kind=_KINDS[role]))

    def begin(self, name: str, role: Role) -> Span:
        context = trace.set_span_in_context(self._span, Context())
        return self.of(self._tracer, name, role, context)

    def note(self, facts: Mapping[str, Fact]) -> None:
        self._span.set_attributes(facts)

    def end(self, code: str) -> None:
        if code:
            self._span.set_attribute("error.type", code)
            self._span.set_status(trace.StatusCode.ERROR, code)
        self._span.end()


class Telling(SpanExporter):
    """Sends by another exporter; says when that begins to fail and when it works again.

    Runs in the library's thread.
    """

    def __init__(self, inner: SpanExporter, endpoint: str) -> None:
        self._inner, self._endpoint = inner, endpoint
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                logger.warning("traces are delivered again; %d spans were lost", self._lost)
            self._lost = 0
            return result
        if not self._lost:
            logger.warning("traces cannot be delivered to %s and are lost", self._endpoint)
        self._lost += len(spans)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._inner.force_flush(timeout_millis)


def _quiet() -> None:
    """The library logs each repetition, with another time in it; `Telling` says what matters."""
    exporters = logging.getLogger("opentelemetry.exporter")
    exporters.handlers[:] = [logging.NullHandler()]
    exporters.propagate = False
