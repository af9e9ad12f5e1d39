"""Counts what it is told: an observer of requests, commits, the loop, HTTP and JSON-RPC."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias, assert_never

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from r3mes.actors.observing import (
    Ended,
    EnvelopeRefusal,
    Event,
    FailedOver,
    Queued,
    Receipted,
    Routed,
    Wrote,
)
from r3mes.node.metrics import declared as d

disable_created_metrics()  # type: ignore[no-untyped-call]
# Their series of the times when counters began double the page and are asked for by nobody.

Instrument: TypeAlias = Counter | Histogram
OTHER = "other"
FINISHES = frozenset({"stop", "length", "cancelled"})
AUTH = {401: "invalid_api_key", 403: "permission_denied", 429: "rate_limited"}


class Counting:
    """The counters and histograms of one node.

    Args:
        registry: where they are registered.
        models: names that may stand in a label.
    """

    def __init__(self, registry: CollectorRegistry, models: Collection[str]) -> None:
        self._models = frozenset(models)
        made = {m: _made(m, registry) for m in d.DECLARED.values() if not m.looked_at}
        self._counters = {m: one for m, one in made.items() if isinstance(one, Counter)}
        self._histograms = {m: one for m, one in made.items() if isinstance(one, Histogram)}

    def observe(self, event: Event) -> None:
        """What happened to a request."""
        match event:
            case Ended():
                self._ended(event)
            case Wrote():
                model = self._model(event.model)
                self._time(d.INTER_TOKEN, event.seconds / event.tokens, event.source, model)
            case Queued():
                self._time(d.QUEUE_WAIT, event.seconds, self._model(event.model))
            case Routed():
                self._count(d.ROUTES, event.result)
            case FailedOver():
                self._count(d.FAILOVERS, event.code)
            case EnvelopeRefusal():
                self._count(d.ENVELOPE_REFUSALS, event.reason)
            case Receipted():
                self._count(d.RECEIPTS, event.role, event.outcome)
                moved = d.EARNED if event.role == "server" else d.SPENT
                self._count(moved, by=event.uremes)
            case _:
                assert_never(event)

    def _ended(self, event: Ended) -> None:
        source, model = event.source, self._model(event.model)
        self._count(d.REQUESTS, source, model, event.outcome)
        self._time(d.DURATION, event.seconds, source, model)
        self._count(d.TOKENS, source, model, "prompt", by=event.prompt_tokens)
        self._count(d.TOKENS, source, model, "completion", by=event.completion_tokens)
        if event.first_token_s is not None:
            self._time(d.FIRST_TOKEN, event.first_token_s, source, model)
        if event.finish:
            known = event.finish if event.finish in FINISHES else OTHER
            self._count(d.FINISHES, source, known)
        if event.code:
            self._count(d.REJECTIONS, source, event.code)
        if source == "api" and event.outcome == "cancelled":
            self._count(d.DISCONNECTS)

    def committed(self, transactions: int, seconds: float, ok: bool) -> None:
        """The store wrote a batch, or could not."""
        if not ok:
            self._count(d.COMMIT_FAILURES)
            return
        self._time(d.COMMIT_SECONDS, seconds)
        self._time(d.COMMIT_BATCH, transactions)

    def woke(self, lag: float) -> None:
        """A task woke up so many seconds late."""
        self._time(d.LOOP_LAG, lag)

    def answered(self, route: str, method: str, status: int) -> None:
        """The HTTP API answered a request; 499 if its caller was gone before."""
        self._count(d.HTTP, route, method, str(status))
        if status in AUTH:
            self._count(d.AUTH_FAILURES, AUTH[status])

    def called(self, method: str, code: str) -> None:
        """A call of JSON-RPC was answered: ``ok``, or the code of an error."""
        self._count(d.RPC_CALLS, method, code)

    def _model(self, name: str) -> str:
        return name if name in self._models else OTHER

    def _count(self, metric: d.Metric, *labels: str, by: float = 1) -> None:
        counter = self._counters[metric]
        (counter.labels(*labels) if labels else counter).inc(by)

    def _time(self, metric: d.Metric, value: float, *labels: str) -> None:
        histogram = self._histograms[metric]
        (histogram.labels(*labels) if labels else histogram).observe(value)


def _made(metric: d.Metric, registry: CollectorRegistry) -> Instrument:
    if metric.kind == "histogram":
        buckets = metric.buckets
        return Histogram(
            metric.name, metric.meaning, metric.labels, registry=registry, buckets=buckets
        )
    return Counter(metric.name, metric.meaning, metric.labels, registry=registry)
