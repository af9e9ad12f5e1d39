"""What log lines look like, and what they never contain."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from r3mes.config.schema import Log
from r3mes.errors import PortInUse
from r3mes.node.logs import set_up

KEY = "r3k_AbCdEf12_" + "x" * 43 + "_0aB9zZ"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("r3mes")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = before


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(Log(level="info"))
    logger = logging.getLogger("r3mes.test")
    logger.debug("not this")
    logger.info("a key: %s", KEY)
    logging.getLogger("somebody.else").info("nor this")
    at, rest = capsys.readouterr().err.split(" ", 1)
    assert rest == "info r3mes.test: a key: r3k_AbCdEf12_…\n"
    assert len(at) == len("2026-11-23T23:50:12Z")


def test_json_with_a_trace(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(Log(level="debug", format="json"))
    try:
        raise ValueError(KEY)
    except ValueError:
        logging.getLogger("r3mes.test").exception("it broke")
    text = capsys.readouterr().err
    assert "x" * 43 not in text
    entry = json.loads(text)
    assert (entry["level"], entry["message"]) == ("error", "it broke")
    assert "ValueError: r3k_AbCdEf12_…" in entry["trace"]


def test_errors_of_ours_need_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(Log())
    try:
        raise PortInUse("port 1 is taken")
    except PortInUse as error:
        logging.getLogger("r3mes.test").warning("http failed", exc_info=error)
    text = capsys.readouterr().err
    assert "Traceback" not in text
    assert "R3-NET-005: port 1 is taken. Stop the other program" in text
