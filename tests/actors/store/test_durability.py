"""Nothing acknowledged is lost, in small: the benchmark does the same with large numbers."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def powercut(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY)
    return importlib.import_module("benchmarks.powercut")


@pytest.fixture
def kill9(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY)
    return importlib.import_module("benchmarks.kill9")


@pytest.mark.slow
def test_power_cuts_lose_nothing_acknowledged(powercut: ModuleType, tmp_path: Path) -> None:
    events = powercut.record(11)
    verdicts = list(powercut.cuts(events, 60, 12, tmp_path))
    assert len(verdicts) == 60
    assert sum(cut.acked_lost for cut in verdicts) == 0
    assert not any(cut.corrupt for cut in verdicts)
    assert max(cut.acked for cut in verdicts) > 1000
    checkpoints = [e for e in events if (e.kind, e.file) == ("sync", "r3mes.sqlite3")]
    assert len(checkpoints) >= 2  # the WAL was emptied into the file under way


@pytest.mark.slow
@pytest.mark.parametrize(("synchronous", "corrupts"), [("NORMAL", False), ("OFF", True)])
def test_the_model_finds_what_weaker_settings_lose(
    powercut: ModuleType, tmp_path: Path, synchronous: str, *, corrupts: bool
) -> None:
    pragmas = [pragma.replace("FULL", synchronous) for pragma in powercut.WRITER_PRAGMAS]
    verdicts = list(powercut.cuts(powercut.record(11, pragmas=pragmas), 30, 12, tmp_path))
    assert sum(cut.acked_lost > 0 for cut in verdicts) > 10
    assert any(cut.corrupt for cut in verdicts) == corrupts


@pytest.mark.slow
def test_kill_9_loses_nothing_acknowledged(kill9: ModuleType, tmp_path: Path) -> None:
    kills = list(kill9.kills(4, tmp_path, seed=5))
    assert sum(kill.acked_lost for kill in kills) == 0
    assert not any(kill.corrupt for kill in kills)
    assert all(kill.acked for kill in kills)
