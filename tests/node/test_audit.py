"""The audit log: what is in it, for whom, how much, and what a full disk does to it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from r3mes.node import audit as module
from r3mes.node.audit import FILE, KEPT, audit, keep_audit_log


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    keep_audit_log(tmp_path)
    yield tmp_path
    module._events.handlers.clear()


def events(folder: Path, name: str = FILE) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_an_event_is_one_line_that_its_owner_alone_can_read(folder: Path) -> None:
    audit("key_created", key="Ab12Cd34", by="admin socket", why=None, tries=3)
    (event,) = events(folder)
    assert event.pop("at").endswith("+00:00")
    assert event == {"event": "key_created", "key": "Ab12Cd34", "by": "admin socket", "tries": 3}
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600


def test_callers_can_neither_forge_a_line_nor_fill_one(folder: Path) -> None:
    audit("auth_failed", why='x"}\n{"event": "forged' + "é" * 10_000)
    (event,) = events(folder)
    assert event["event"] == "auth_failed"
    assert len(event["why"]) == 256


def test_a_key_that_got_into_a_fact_is_masked(folder: Path) -> None:
    audit("key_created", name="r3k_Ab12Cd34_" + "s" * 43 + "_abcdef")
    assert "ssss" not in (folder / FILE).read_text()


def test_no_level_of_the_log_silences_it_and_the_log_has_it_too(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="r3mes"):
        audit("one")
    with caplog.at_level(logging.INFO, logger="r3mes"):
        audit("two", by="laptop")
    assert [event["event"] for event in events(folder)] == ["one", "two"]
    told = [one.message for one in caplog.records if one.name == module.logger.name]
    assert told == ["two by='laptop'"]


def test_it_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 200)
    for number in range(40):
        audit("event", number=number)
    files = sorted(path.name for path in folder.iterdir())
    assert files == [FILE, *(f"{FILE}.{number}" for number in range(1, KEPT + 1))]
    assert all((folder / name).stat().st_size <= 200 for name in files)
    kept = [event["number"] for name in [*files[:0:-1], FILE] for event in events(folder, name)]
    assert kept == list(range(40 - len(kept), 40))


def test_whoever_moves_the_file_gets_a_new_one(folder: Path) -> None:
    audit("one")
    (folder / FILE).rename(folder / "elsewhere")
    audit("two")
    assert [event["event"] for event in events(folder)] == ["two"]


def test_a_full_disk_fails_nobody_and_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_fd: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        for _ in range(3):
            audit("lost")
    audit("kept")
    audit("kept")
    assert [event.get("lost_before") for event in events(folder)] == [3, None]
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [f"{folder / FILE}: No space left on device; events are in this log only"]


def test_half_a_line_counts_as_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
        audit("half")
    audit("whole")
    (event,) = events(folder)
    assert event["lost_before"] == 1


def test_a_directory_that_is_gone_fails_nobody(tmp_path: Path) -> None:
    keep_audit_log(tmp_path / "gone")
    audit("one")
    module._events.handlers.clear()
