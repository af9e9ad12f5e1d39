"""The configuration over JSON-RPC: read, checked, changed with its comments kept."""

from __future__ import annotations

import stat
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from r3mes.actors.semantic.router import Plan, SemanticRouter
from r3mes.config.load import load
from r3mes.node.reload import Reload
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.methods.config import ConfigMethods
from r3mes.node.rpc.methods.route import RouteMethods
from tests.node.rpc.conftest import Caller

TEXT = """\
# mine
[log]
level = "info"  # quiet

[limits]
queue = 7
"""


def text(file: Path) -> str:
    return file.read_text()


def write(file: Path, text: str) -> None:
    file.write_text(text)


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(TEXT)
    path.chmod(0o640)
    return path


@pytest.fixture
def levels() -> list[str]:
    """Taken over by the running node, one after the other."""
    return []


@pytest.fixture
def config(file: Path, levels: list[str]) -> Caller:
    read = partial(load, file=file, env={"R3MES_LIMITS__SLOTS": "3"}, flags={})
    reload = Reload(read(), read, now_ms=lambda: 0)
    reload.live("log.level", lambda new: levels.append(new.log.level))
    return Caller(Dispatcher(ConfigMethods(reload)))


async def test_values_come_with_their_origins(config: Caller, file: Path) -> None:
    assert await config("config_get", path="log.level") == {
        "log.level": {"value": "info", "origin": f"file {file}:3"}
    }
    limits = await config("config_get", path="limits")
    assert limits["limits.slots"] == {"value": 3, "origin": "env R3MES_LIMITS__SLOTS"}
    assert limits["limits.drain_seconds"]["origin"] == "default"
    assert {"models", "api.key_file", *limits} <= (await config("config_get")).keys()


@pytest.mark.parametrize("path", ["", "nothing", "log.nothing", "log.level.more", "x" * 100])
async def test_there_is_no_such_key(config: Caller, path: str) -> None:
    assert (await config("config_get", path=path))["code"] == -32040
    assert (await config("config_set", path=path, value=1))["code"] in (-32040, -32602)


async def test_value_that_a_running_node_takes_over(
    config: Caller, file: Path, levels: list[str]
) -> None:
    told = await config("config_set", path="log.level", value="debug")
    assert told == {"in_force": True, "needs_restart": False, "overridden_by": None}
    assert text(file) == TEXT.replace('"info"', '"debug"')
    assert mode(file) == 0o640
    assert levels == ["debug"]


async def test_value_that_needs_a_restart_and_new_sections(config: Caller, file: Path) -> None:
    told = await config("config_set", path="api.allowed_hosts", value=["a.example", "b.example"])
    assert (told["in_force"], told["needs_restart"]) == (False, True)
    assert text(file).startswith(TEXT)
    assert 'allowed_hosts = ["a.example", "b.example"]' in text(file)


async def test_null_brings_the_default_back(config: Caller, file: Path) -> None:
    assert (await config("config_set", path="limits.queue", value=None))["needs_restart"]
    assert "queue" not in text(file)
    assert "# quiet" in text(file)


async def test_the_environment_goes_before_the_file_and_that_is_told(config: Caller) -> None:
    told = await config("config_set", path="limits.slots", value=9)
    by = "env R3MES_LIMITS__SLOTS"
    assert told == {"in_force": False, "needs_restart": False, "overridden_by": by}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("log.level", "loud"),
        ("log.level", 3),
        ("limits.queue", -1),
        ("limits.queue", 10**30),
        ("limits.drain_seconds", 1e300),
        ("api.listen", "0.0.0.0:7331"),
        ("api.listen", "\n[log]\nlevel = 1"),
        ("api.allowed_hosts", "one"),
    ],
)
async def test_value_that_does_not_hold_changes_nothing(
    config: Caller, file: Path, path: str, value: Any, levels: list[str]
) -> None:
    assert (await config("config_set", path=path, value=value))["code"] == -32040
    assert text(file) == TEXT
    assert sorted(one.name for one in file.parent.iterdir()) == ["config.toml"]
    assert levels == []


async def test_nonsense_is_checked_and_told_with_its_line(config: Caller, file: Path) -> None:
    assert await config("config_check") == []
    (issue,) = await config("config_check", toml='[log]\nlevel = "loud"')
    assert f"{file}:2: log.level is 'loud'" in issue["what"]
    (issue,) = await config("config_check", toml="[[[")
    assert "not TOML" in issue["what"]
    assert text(file) == TEXT
    write(file, "level = 1")
    (issue,) = await config("config_check")
    assert "no section" in issue["what"]


async def test_file_that_is_wrong_already_is_left_alone(config: Caller, file: Path) -> None:
    write(file, "[log\n")
    assert (await config("config_set", path="log.level", value="debug"))["code"] == -32040
    assert text(file) == "[log\n"


async def test_models_are_changed_in_the_file(config: Caller) -> None:
    assert (await config("config_set", path="models", value=None))["code"] == -32602


async def test_value_is_taken_over_also_when_the_caller_hangs_up(
    config: Caller, file: Path, levels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.CancelScope() as scope:

        def write_and_leave(path: Path, text: str) -> None:
            path.write_text(text)
            trio.from_thread.run_sync(scope.cancel)

        monkeypatch.setattr("r3mes.node.reload.replace_file", write_and_leave)
        await config("config_set", path="log.level", value="debug")
    assert ("debug" in text(file), levels) == (True, ["debug"])


async def test_a_value_and_a_route_at_once_are_both_written(file: Path) -> None:
    read = partial(load, file=file, env={}, flags={})
    reload = Reload(read(), read, now_ms=lambda: 0)
    router = SemanticRouter(None, Plan())
    routes = RouteMethods(cast(Any, None), router, reload)
    both = Caller(Dispatcher(ConfigMethods(reload), routes))
    route = {"name": "cook", "model": "m", "examples": ["boil an egg"]}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(both, "config_set", path="log.level", value="debug"))
        nursery.start_soon(partial(both, "route_add", **route))
    assert ("debug" in text(file), "cook" in text(file)) == (True, True)
