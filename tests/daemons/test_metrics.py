"""What Prometheus finds at two nodes, of which one answers for the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.samples import Sample

from benchmarks.daemons import Daemon, wait
from r3mes.errors import ConfigError
from r3mes.node.metrics.declared import DECLARED
from tests.daemons.test_operator import ask

QUESTION: Any = [{"role": "user", "content": "What is a receipt?"}]
pytestmark = pytest.mark.slow


def scrape(daemon: Daemon, **headers: str) -> httpx.Response:
    url = f"http://{daemon.running.metrics}/metrics"
    return httpx.get(url, headers=headers, timeout=10).raise_for_status()


def samples(daemon: Daemon) -> list[Sample]:
    return [sample for family in parse(scrape(daemon).text) for sample in family.samples]


def value(found: Iterable[Sample], name: str, **labels: str) -> float:
    return sum(
        sample.value
        for sample in found
        if sample.name == f"r3mes_{name}" and labels.items() <= sample.labels.items()
    )


@pytest.fixture
def answered(gateway: Daemon) -> int:
    """Tokens of an answer that the gateway had from the server."""
    done = gateway.openai().chat.completions.create(
        model="endless", messages=QUESTION, max_tokens=40
    )
    return int(done.usage.completion_tokens)


def test_every_declared_metric_is_there_and_no_other(gateway: Daemon) -> None:
    families = {family.name: family for family in parse(scrape(gateway).text)}
    ours = {name for name in families if not name.startswith("process_")}
    assert ours == {name.removesuffix("_total") for name in DECLARED}
    for name, metric in DECLARED.items():
        family = families[name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.meaning)


def test_openmetrics_for_those_who_ask(gateway: Daemon) -> None:
    accept = "application/openmetrics-text;version=1.0.0"
    page = scrape(gateway, accept=accept)
    assert page.headers["content-type"].startswith("application/openmetrics-text")
    found = parse_openmetrics(page.text)  # type: ignore[no-untyped-call]
    assert {f"{f.name}_total" if f.type == "counter" else f.name for f in found} >= set(DECLARED)


def test_an_answer_is_counted_on_both_sides(gateway: Daemon, server: Daemon, answered: int) -> None:
    asked, served = samples(gateway), samples(server)
    assert value(asked, "requests_total", source="api", outcome="ok") >= 1
    assert value(asked, "route_decisions_total", result="peer") >= 1
    assert value(asked, "p2p_peers") == value(served, "p2p_peers") == 1
    assert value(asked, "tokens_total", source="api", kind="completion", model="other") >= answered
    assert value(served, "tokens_total", source="peer", model="endless") > answered
    assert value(served, "time_to_first_token_seconds_count", model="endless") >= 1
    assert value(served, "inter_token_latency_seconds_count", model="endless") >= 1
    assert value(served, "queue_wait_seconds_count", model="endless") >= 1
    assert value(served, "models_loaded") == 2
    assert value(served, "model_load_seconds", model="endless") > 0
    assert value(served, "model_memory_bytes", model="endless") > 1 << 20
    assert value(asked, "spent_uremes_total") > 0


def test_a_receipt_is_earned_once(gateway: Daemon, server: Daemon, answered: int) -> None:
    def countersigned() -> bool | None:
        found = samples(server)
        kept = value(found, "receipts_total", role="server", outcome="kept")
        both = value(found, "receipts_total", role="server", outcome="countersigned")
        return kept == both or None

    wait(countersigned, "the countersignature")
    earned = value(samples(server), "earned_uremes_total")
    assert earned == value(samples(gateway), "spent_uremes_total")


def test_the_node_looks_at_itself(server: Daemon) -> None:
    found = samples(server)
    assert value(found, "node_ready") == value(found, "db_writable") == 1
    assert value(found, "child_ready", child="inference.endless") == 1
    assert value(found, "child_restarts_total") == 0
    assert value(found, "mailbox_received_total", mailbox="store") > 0
    assert value(found, "db_commit_seconds_count") > 0
    assert value(found, "db_size_bytes") > 4096
    assert value(found, "disk_free_bytes") > 0
    assert value(found, "event_loop_lag_seconds_count") > 0
    assert value(found, "node_state", state="ready") == value(found, "node_state") == 1
    assert value(found, "config_last_reload_success") == 1
    assert value(found, "config_last_reload_timestamp_seconds") > 1.7e9
    assert value(found, "watchdog_pings_total") > 0


def test_a_configuration_that_was_refused_shows_until_it_is_right(server: Daemon) -> None:
    file = server.folder / "config.toml"
    right, before = file.read_text(), value(samples(server), "config_last_reload_timestamp_seconds")
    try:
        file.write_text("nonsense = 1\n")
        assert "error" in ask(server, "node_reload")
        found = samples(server)
        assert value(found, "config_last_reload_success") == 0
        assert value(found, "config_last_reload_timestamp_seconds") > before
        assert value(found, "warnings_active", warning="config_refused") == 1
        assert (
            value(found, "rpc_calls_total", method="node_reload", code=ConfigError.kind.code) == 1
        )
    finally:
        file.write_text(right)
        assert "result" in ask(server, "node_reload")
    found = samples(server)
    assert (value(found, "config_last_reload_success"), value(found, "warnings_active")) == (1, 0)


def test_nobody_is_named(gateway: Daemon, server: Daemon, answered: int) -> None:
    gateway.get("/no/such/path")
    for daemon in (gateway, server):
        text = scrape(daemon).text
        for one in (gateway, server):
            assert one.running.peer_id not in text
            assert one.running.wallet not in text
            assert one.key.split("_")[1] not in text
        assert "/no/such/path" not in text


@pytest.mark.parametrize(
    ("method", "path", "host", "status"),
    [
        ("GET", "/", "127.0.0.1", 404),
        ("POST", "/metrics", "127.0.0.1", 404),
        ("GET", "/v1/models", "127.0.0.1", 404),
        ("GET", "/metrics", "evil.example", 403),
    ],
)
def test_nothing_else_is_served(
    server: Daemon, method: str, path: str, host: str, status: int
) -> None:
    url = f"http://{server.running.metrics}{path}"
    assert httpx.request(method, url, headers={"host": host}).status_code == status
