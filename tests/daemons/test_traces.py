"""One trace of a request over two nodes, as a collector gets it; and nodes without a collector."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from benchmarks.daemons import Daemon, wait
from tests.daemons.collector import Collector, collecting

pytestmark = [pytest.mark.apart, pytest.mark.slow, pytest.mark.net]

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PROMPT = "What is a receipt?"
CHAIN = [
    ("gateway", "POST /v1/chat/completions", ""),
    ("gateway", "r3mes.request", "POST /v1/chat/completions"),
    ("gateway", "r3mes.route", "r3mes.request"),
    ("gateway", "r3mes.p2p", "r3mes.request"),
    ("server", "r3mes.serve", "r3mes.p2p"),
    ("server", "r3mes.queue", "r3mes.serve"),
    ("server", "r3mes.prefill", "r3mes.serve"),
    ("server", "r3mes.decode", "r3mes.serve"),
    ("server", "r3mes.settle", "r3mes.serve"),
    ("gateway", "r3mes.settle", "r3mes.p2p"),
]


@dataclass
class Two:
    gateway: Daemon
    server: Daemon
    collector: Collector
    shut: ExitStack
    """Ends the collector."""

    def ask(self, **headers: str) -> httpx.Response:
        body = {
            "model": "builtin",
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": 8,
        }
        return httpx.post(
            f"{self.gateway.url}/v1/chat/completions",
            json=body,
            headers={**self.gateway.headers, **headers},
            timeout=60,
        ).raise_for_status()

    def trace(self, trace_id: bytes) -> list[tuple[str, Span]] | None:
        """Its spans with the names of their nodes, once both nodes have sent theirs."""
        nodes = {self.gateway.running.peer_id: "gateway", self.server.running.peer_id: "server"}
        found = [
            (nodes[owner], span)
            for owner, span in self.collector.spans()
            if span.trace_id == trace_id
        ]
        return found if len(found) >= len(CHAIN) else None


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("traces")
    with ExitStack() as shut:
        collector = shut.enter_context(collecting())
        otel = {"endpoint": collector.url, "ratio": 0.0}
        server = Daemon(folder / "server", models=[{"id": "builtin"}], otel=otel).start()
        gateway = Daemon(
            folder / "gateway", p2p={"bootstrap": [server.running.p2p[0]]}, otel=otel
        ).start()
        try:
            gateway.wait_for_model("builtin")
            yield Two(gateway, server, collector, shut)
        finally:
            gateway.end()
            server.end()


def test_one_trace_over_two_nodes_with_their_parents(two: Two) -> None:
    two.ask(traceparent=f"00-{TRACE}-{CALLER}-01")
    found = wait(lambda: two.trace(bytes.fromhex(TRACE)), "the trace")
    names = {span.span_id: span.name for _node, span in found}
    parents = {(node, span.name, names.get(span.parent_span_id, "")) for node, span in found}
    assert len(found) == len(CHAIN)
    assert parents == set(CHAIN)
    (first,) = [span for _node, span in found if span.name == CHAIN[0][1]]
    assert first.parent_span_id.hex() == CALLER
    times = {span.span_id: (span.start_time_unix_nano, span.end_time_unix_nano)
             for _node, span in found}  # fmt: skip
    for _node, span in found:
        if span.parent_span_id in times:
            assert times[span.parent_span_id][0] <= span.start_time_unix_nano
    assert all(start <= end for start, end in times.values())


def test_nothing_that_anybody_wrote_or_owns_is_in_it(two: Two) -> None:
    text = two.ask(traceparent=f"00-{TRACE[::-1]}-{CALLER}-01").json()["choices"][0]["message"]
    wait(lambda: two.trace(bytes.fromhex(TRACE[::-1])), "the trace")
    told = b"".join(two.collector.bodies)
    assert b"builtin" in told
    for secret in (PROMPT, text["content"], two.gateway.key, two.gateway.key.split("_")[1],
                   two.gateway.running.wallet, two.server.running.wallet):  # fmt: skip
        assert secret.encode() not in told


def test_nothing_is_sent_of_what_nobody_asked_to_trace(two: Two) -> None:
    before = {span.trace_id for _owner, span in two.collector.spans()}
    for traceparent in ("", "nonsense", f"00-{TRACE}-{CALLER}-00", f"00-{'0' * 32}-{CALLER}-01"):
        two.ask(traceparent=traceparent)
    marker = TRACE[1:] + "1"
    two.ask(traceparent=f"00-{marker}-{CALLER}-01")
    wait(lambda: two.trace(bytes.fromhex(marker)), "the trace after them")
    after = {span.trace_id for _owner, span in two.collector.spans()}
    assert after - before == {bytes.fromhex(marker)}


def test_nodes_serve_and_stop_without_their_collector(two: Two) -> None:
    two.shut.close()
    two.ask(traceparent=f"00-{TRACE}-{CALLER}-01")

    def told(log: Path) -> bool | None:
        return "traces cannot be delivered to" in log.read_text() or None

    wait(lambda: told(two.gateway.log), "the warning")
    two.ask(traceparent=f"00-{TRACE}-{CALLER}-01")
    for daemon in (two.gateway, two.server):
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert "did not end by itself" not in daemon.log.read_text()
