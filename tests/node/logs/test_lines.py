"""What log lines look like, on a terminal, as JSON and in the journal."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from random import Random

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from r3mes.actors.tracing import first_part
from r3mes.config.schema import Log
from r3mes.errors import PortInUse
from r3mes.ids import PeerId
from r3mes.node.logs import RECENT, set_up
from r3mes.node.logs.lines import goes_to_journal
from r3mes.node.otel import OtelTracer, provider

KEY = "r3k_AbCdEf12_" + "x" * 43 + "_0aB9zZ"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("r3mes")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = before


def test_text(capfd: pytest.CaptureFixture[str]) -> None:
    set_up(Log(level="info"))
    logger = logging.getLogger("r3mes.test")
    logger.debug("not this")
    logger.info("a key: %s", KEY)
    logging.getLogger("somebody.else").info("nor this")
    at, rest = capfd.readouterr().err.split(" ", 1)
    assert rest == "info r3mes.test: a key: r3k_AbCdEf12_…\n"
    assert len(at) == len("2026-11-23T23:50:12Z")
    assert RECENT.after()[-1].message == "a key: r3k_AbCdEf12_…"


def test_json_with_a_trace(capfd: pytest.CaptureFixture[str]) -> None:
    set_up(Log(level="debug", format="json"))
    try:
        raise ValueError(KEY)
    except ValueError:
        logging.getLogger("r3mes.test").exception("it broke")
    text = capfd.readouterr().err
    assert "x" * 43 not in text
    entry = json.loads(text)
    assert (entry["level"], entry["message"]) == ("error", "it broke")
    assert "ValueError: r3k_AbCdEf12_…" in entry["trace"]


async def test_json_names_the_trace_of_the_request(capfd: pytest.CaptureFixture[str]) -> None:
    set_up(Log(format="json"))
    spans = provider(SimpleSpanProcessor(InMemorySpanExporter()), PeerId("own"))
    tracer = OtelTracer(spans, 1.0, Random(1))  # noqa: S311
    with first_part(tracer, "request", "server") as span:
        logging.getLogger("r3mes.test").warning("in it")
    logging.getLogger("r3mes.test").warning("outside")
    inside, outside = map(json.loads, capfd.readouterr().err.splitlines())
    assert inside["trace_id"] == span.trace_id
    assert len(span.trace_id) == 32
    assert "trace_id" not in outside
    assert [line.trace_id for line in RECENT.after()[-2:]] == [span.trace_id, ""]


def test_errors_of_ours_need_no_trace(capfd: pytest.CaptureFixture[str]) -> None:
    set_up(Log())
    try:
        raise PortInUse("port 1 is taken")
    except PortInUse as error:
        logging.getLogger("r3mes.test").warning("http failed", exc_info=error)
    text = capfd.readouterr().err
    assert "Traceback" not in text
    assert "R3-NET-005: port 1 is taken. Stop the other program" in text


@pytest.mark.parametrize(("form", "start"), [("text", "<3>r3mes.test: it"), ("json", '<3>{"at":')])
def test_the_journal_gets_severities_and_no_times(
    form: str, start: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
    set_up(Log(format=form))  # type: ignore[arg-type]
    try:
        raise ValueError("of two\nlines")
    except ValueError:
        logging.getLogger("r3mes.test").exception("it broke")
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith(start)
    assert all(line.startswith("<3>") for line in lines)


def test_a_stream_of_somebody_else_is_not_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")  # inherited; stderr was redirected since
    assert not goes_to_journal()
    assert not goes_to_journal(fd=987)


def test_a_format_that_does_not_fit_harms_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    set_up(Log())
    logging.getLogger("r3mes.test").warning("%d", KEY)
    assert capfd.readouterr().err == "r3mes.test: a line could not be written (TypeError)\n"
