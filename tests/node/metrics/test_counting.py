"""What the counters make of events, and what may stand in a label."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from r3mes.actors.observing import (
    Ended,
    EnvelopeRefusal,
    FailedOver,
    Outcome,
    Queued,
    Receipted,
    Routed,
    Source,
    Wrote,
)
from r3mes.errors import REGISTRY, CallMalformed, ParseFailed
from r3mes.node.metrics.counting import Counting
from r3mes.node.metrics.declared import DECLARED
from r3mes.node.rpc.context import Context
from r3mes.node.rpc.dispatcher import Dispatcher
from tests.node.conftest import KEYS, bare_namespaces

FORBIDDEN = {"peer", "peer_id", "key", "key_id", "address", "account", "wallet", "request", "id"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def counting(registry: CollectorRegistry) -> Counting:
    return Counting(registry, ["tiny"])


def ended(
    source: Source = "peer", outcome: Outcome = "ok", model: str = "tiny", code: str = ""
) -> Ended:
    finish = "" if code else "stop"
    return Ended(source, model, outcome, code, finish, 2.0, None if code else 0.2, 10, 20)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"r3mes_{name}", labels)


def test_an_answer(registry: CollectorRegistry, counting: Counting) -> None:
    counting.observe(Queued("tiny", 0.5))
    counting.observe(Wrote("peer", "tiny", 4, 0.04))
    counting.observe(ended())
    peer = {"source": "peer", "model": "tiny"}
    assert value(registry, "requests_total", outcome="ok", **peer) == 1
    assert value(registry, "request_duration_seconds_sum", **peer) == 2
    assert value(registry, "time_to_first_token_seconds_sum", **peer) == 0.2
    assert value(registry, "inter_token_latency_seconds_sum", **peer) == 0.01
    assert value(registry, "queue_wait_seconds_bucket", model="tiny", le="0.5") == 1
    assert value(registry, "tokens_total", kind="prompt", **peer) == 10
    assert value(registry, "tokens_total", kind="completion", **peer) == 20
    assert value(registry, "finish_total", source="peer", reason="stop") == 1


def test_refusals_have_a_reason_and_no_first_token(
    registry: CollectorRegistry, counting: Counting
) -> None:
    counting.observe(ended(outcome="refused", code="overloaded"))
    labels = {"source": "peer", "reason": "overloaded"}
    assert value(registry, "request_rejections_total", **labels) == 1
    assert value(registry, "time_to_first_token_seconds_count", source="peer", model="tiny") is None


def test_only_applications_disconnect(registry: CollectorRegistry, counting: Counting) -> None:
    for source in ("api", "peer", "local"):
        counting.observe(ended(source, "cancelled"))
    assert value(registry, "client_disconnects_total") == 1


def test_money_and_receipts(registry: CollectorRegistry, counting: Counting) -> None:
    counting.observe(Receipted("server", "kept", 7))
    counting.observe(Receipted("server", "countersigned"))
    counting.observe(Receipted("gateway", "kept", 5))
    assert value(registry, "earned_uremes_total") == 7
    assert value(registry, "spent_uremes_total") == 5
    assert value(registry, "receipts_total", role="server", outcome="countersigned") == 1


def test_routes_and_envelopes(registry: CollectorRegistry, counting: Counting) -> None:
    counting.observe(FailedOver("overloaded"))
    counting.observe(Routed("peer"))
    counting.observe(EnvelopeRefusal("signature"))
    assert value(registry, "route_failovers_total", reason="overloaded") == 1
    assert value(registry, "route_decisions_total", result="peer") == 1
    assert value(registry, "envelope_refusals_total", reason="signature") == 1


def test_the_store_and_http(registry: CollectorRegistry, counting: Counting) -> None:
    counting.committed(3, 0.002, ok=True)
    counting.committed(1, 0.5, ok=False)
    counting.answered("/v1/models", "GET", 401)
    assert value(registry, "db_commit_transactions_sum") == 3
    assert value(registry, "db_commit_failures_total") == 1
    labels = {"route": "/v1/models", "method": "GET", "code": "401"}
    assert value(registry, "http_requests_total", **labels) == 1
    assert value(registry, "auth_failures_total", reason="invalid_api_key") == 1


async def test_calls_of_json_rpc_by_method_and_outcome(
    registry: CollectorRegistry, counting: Counting
) -> None:
    rpc = Dispatcher(*bare_namespaces(), called=counting.called)
    call = '{"jsonrpc":"2.0","id":1,"method":"%s","params":%s}'
    for name, params in (
        ("rpc_modules", "{}"),
        ("rpc_modules", '{"x":1}'),
        ("key_list", "{}"),
        ("made up", "{}"),
        ("made up too", "{}"),
    ):
        await rpc.answer((call % (name, params)).encode(), Context(KEYS["r3k_read"]))
    await rpc.answer(b'[1, {"jsonrpc":"2.0","method":"rpc_modules"}]', Context(KEYS["r3k_read"]))
    await rpc.answer(b"{", Context(KEYS["r3k_read"]))
    told = {
        (sample.labels["method"], sample.labels["code"]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "r3mes_rpc_calls_total"
    }
    assert told == {
        ("rpc_modules", "ok"): 2,
        ("rpc_modules", "invalid_request"): 1,
        ("key_list", "permission_denied"): 1,
        ("other", "method_not_found"): 2,
        ("other", CallMalformed.kind.code): 1,
        ("other", ParseFailed.kind.code): 1,
    }


def test_strangers_cannot_make_up_labels(registry: CollectorRegistry, counting: Counting) -> None:
    for number in range(100):
        counting.observe(ended(model=f"made up {number}"))
    assert value(registry, "requests_total", source="peer", model="other", outcome="ok") == 100
    assert value(registry, "requests_total", source="peer", model="made up 1", outcome="ok") is None


def test_names_and_labels_keep_to_the_rules() -> None:
    for name, metric in DECLARED.items():
        assert name.startswith("r3mes_")
        assert name.endswith("_total") == (metric.kind == "counter"), name
        assert metric.meaning.endswith("."), name
        assert not FORBIDDEN & set(metric.labels), name
        assert bool(metric.buckets) == (metric.kind == "histogram"), name
    assert "overloaded" in REGISTRY  # where reasons come from
