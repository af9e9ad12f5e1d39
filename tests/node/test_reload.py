"""A new configuration is taken whole or not at all; what needs a restart is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from r3mes.config.load import Loaded, load
from r3mes.config.schema import Config
from r3mes.errors import ConfigError
from r3mes.node.reload import Reload, Reloaded

BEFORE = """
[api]
listen = "127.0.0.1:7331"
allowed_hosts = ["a.example"]
[log]
level = "info"
[[models]]
id = "builtin"
price_prompt = 1
"""


class Node:
    """A file, its reload, and what the parts were given."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "config.toml"
        self.file.write_text(BEFORE)
        self.now = 1000
        self.reload = Reload(self._read(), self._read, now_ms=lambda: self.now)
        self.applied: list[Config] = []
        for key in ("log.level", "log.format", "api.allowed_hosts", "models"):
            self.reload.live(key, self.applied.append)

    def _read(self) -> Loaded:
        return load(file=self.file, env={}, flags={"node.datadir": str(self.file.parent)})

    async def with_text(self, *changes: tuple[str, str]) -> Reloaded:
        text = BEFORE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        self.file.write_text(text)
        self.now += 1
        return await self.reload.reload()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_nothing_changed(node: Node) -> None:
    assert await node.with_text() == Reloaded((), ())
    assert (node.applied, node.reload.last_ok, node.reload.last_at_ms) == ([], True, 1001)


async def test_what_can_change_changes_and_the_rest_is_named_until_the_restart(node: Node) -> None:
    changes = (('"info"', '"debug"'), ("7331", "7399"), ("a.example", "b.example"))
    done = await node.with_text(*changes)
    assert done == Reloaded(("api.allowed_hosts", "log.level"), ("api.listen",))
    assert len(node.applied) == 1  # a part that takes over several is told once
    assert node.reload.config.log.level == "debug"
    assert node.reload.config.api.allowed_hosts == ("b.example",)
    assert node.reload.config.api.listen == "127.0.0.1:7331"
    assert await node.with_text(*changes) == Reloaded((), ("api.listen",))
    assert node.reload.needs_restart == ("api.listen",)
    await node.with_text()
    assert not node.reload.needs_restart


async def test_prices_change_of_models_that_are_loaded(node: Node) -> None:
    more = '[[models]]\nid = "/models/other"\n[[models]]\nid = "builtin"\nmax_context = 64\n'
    done = await node.with_text(("price_prompt = 1", "price_prompt = 7"))
    assert done == Reloaded(("models.builtin.price_prompt",), ())
    assert node.applied[-1].models[0].price_prompt == 7
    done = await node.with_text(('[[models]]\nid = "builtin"\nprice_prompt = 1', more))
    assert done == Reloaded(("models.builtin.price_prompt",), ("models",))
    (model,) = node.reload.config.models
    assert (model.price_prompt, model.max_context) == (100_000, None)


async def test_adapters_of_the_file_come_with_the_next_start(node: Node) -> None:
    more = '[[adapters]]\nmodel = "builtin"\nname = "a"\nid = "/a"\n[[models]]'
    assert await node.with_text(("[[models]]", more)) == Reloaded((), ("adapters",))
    assert node.reload.config.adapters == ()


@pytest.mark.parametrize(
    ("nonsense", "said"),
    [
        (('"info"', '"loud"'), "log.level is 'loud'"),
        (("[log]", "[lgo]"), "did you mean log"),
        (("[log]", "[[[log"), "is not TOML"),
        (("127.0.0.1:7331", "0.0.0.0:7331"), "which others can reach"),
    ],
)
async def test_nonsense_changes_nothing(
    node: Node, nonsense: tuple[str, str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = node.reload.config
    with pytest.raises(ConfigError, match=said):
        await node.with_text(("a.example", "b.example"), nonsense)
    assert node.reload.config is before
    assert (node.applied, node.reload.last_ok, node.reload.last_at_ms) == ([], False, 1001)
    assert said in caplog.text
    await node.with_text(("a.example", "b.example"))
    assert node.reload.last_ok


async def test_a_part_that_fails_gives_all_others_their_old_values_back(node: Node) -> None:
    def fails(config: Config) -> None:
        if config.log.level == "debug":
            raise ConfigError("the log cannot")

    hosts: list[tuple[str, ...]] = []
    take: Callable[[Config], None] = lambda config: hosts.append(config.api.allowed_hosts)  # noqa: E731
    node.reload.live("api.allowed_hosts", take)
    node.reload.live("log.level", fails)
    with pytest.raises(ConfigError, match="the log cannot"):
        await node.with_text(('"info"', '"debug"'), ("a.example", "b.example"))
    assert hosts == [("b.example",), ("a.example",)]
    assert node.reload.config.api.allowed_hosts == ("a.example",)
    assert not node.reload.last_ok


async def test_origins_are_those_of_the_values_in_force(node: Node) -> None:
    await node.with_text(
        ("[api]", '# one line more\n[api]\nkey_file = "api-key"'), ("7331", "7399"),
        ('"info"', '"debug"'),
    )  # fmt: skip
    origins = node.reload.loaded.origins
    assert origins["log.level"] == f"file {node.file}:8"
    assert origins["api.allowed_hosts"] == f"file {node.file}:6"  # the value stayed, its line moved
    assert origins["api.key_file"] == f"file {node.file}:4"  # as before, by default then
    assert origins["api.listen"] == f"file {node.file}:3"  # that of the value still in force
