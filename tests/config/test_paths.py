"""Which configuration a command takes that names none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from r3mes.config import paths
from r3mes.config.paths import config_file, config_file_in_force


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The user's own file, which is not there, and the service's, which is."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(paths, "SYSTEM_CONFIG", tmp_path / "etc/config.toml")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/config.toml").touch()
    return tmp_path / "home/r3mes/config.toml", tmp_path / "etc/config.toml"


def test_who_has_none_finds_the_service(places: tuple[Path, Path]) -> None:
    own, service = places
    assert config_file_in_force({}) == service
    assert config_file({}) == own
    service.unlink()
    assert config_file_in_force({}) == own


def test_ones_own_comes_first(places: tuple[Path, Path]) -> None:
    own, _ = places
    own.parent.mkdir(parents=True)
    own.touch()
    assert config_file_in_force({}) == own


@pytest.mark.parametrize("name", ["R3MES_CONFIG", "R3MES_NODE__DATADIR"])
def test_who_names_a_place_means_it(places: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    env: Mapping[str, str] = {name: str(tmp_path / "mine")}
    assert config_file_in_force(env) == config_file(env)
    assert config_file_in_force({}, tmp_path / "there") == tmp_path / "there/config.toml"
    assert places[1].exists()
