"""`r3mes service install --import-from`: the node of a user becomes the service's."""

from __future__ import annotations

from pathlib import Path

import pytest

from r3mes.actors.store.datadir import locked
from r3mes.config.load import load
from r3mes.errors import DataDirLocked, ServiceError, ServiceHasNode
from r3mes.node.cli.init import create_node
from r3mes.node.cli.passphrase import generate, passphrase_beside
from r3mes.node.service.install import Source, installation
from r3mes.node.service.places import Places
from tests.node.service.conftest import with_systemd

PROGRAM = Path("/usr/local/bin/r3mes")


@pytest.fixture
def users(tmp_path: Path) -> Source:
    """A node as `r3mes --datadir … init` makes it."""
    (datadir := tmp_path / "node").mkdir()
    (datadir / "config.toml").write_text("[log]\nlevel = 'debug'\n")
    source = Source.of(datadir, None)
    config = source.load().config
    generate(passphrase := passphrase_beside(config))
    create_node(config, passphrase, lambda text, created: None)
    return source


def install(places: Places, source: Source | None) -> list[str]:
    return [step.do() for step in list(installation(places, PROGRAM, source))]


def secrets_of(datadir: Path) -> list[bytes]:
    names = ("keys/node.key", "wallets/default.json", "wallets/default.passphrase", "api-key")
    return [(datadir / name).read_bytes() for name in names]


@with_systemd
def test_it_moves_with_its_keys_and_its_configuration(tree: Path, users: Source) -> None:
    places, before = Places(tree, live=False), secrets_of(users.datadir)
    install(places, users)
    assert secrets_of(places.data) == before
    assert {one.stat().st_uid for one in places.data.rglob("*")} == {places.account()[0]}
    config = load(file=places.config, env={}, flags={}).config
    assert config.log.level == "debug"
    assert config.node.datadir == Path("/var/lib/r3mes")
    assert not (places.data / "config.toml").exists()
    assert not users.datadir.exists()
    assert secrets_of(users.datadir.with_name("node.moved")) == before


@with_systemd
def test_that_of_a_home_brings_its_configuration_and_key(tree: Path, users: Source) -> None:
    home = users.datadir.parent / "al"
    (config := home / ".config/r3mes").mkdir(parents=True)
    (home / ".local/share").mkdir(parents=True)
    for name in ("config.toml", "api-key"):
        (users.datadir / name).rename(config / name)
    datadir = users.datadir.rename(home / ".local/share/r3mes")
    key = (config / "api-key").read_text()
    places = Places(tree, live=False)
    install(places, Source.of(datadir, None))
    assert (places.data / "api-key").read_text() == key
    assert load(file=places.config, env={}, flags={}).config.log.level == "debug"
    assert not (config / "config.toml").exists()


@with_systemd
def test_nothing_is_taken_from_a_node_that_runs(tree: Path, users: Source) -> None:
    places = Places(tree, live=False)
    with locked(users.datadir), pytest.raises(DataDirLocked):
        install(places, users)
    assert not any(places.data.iterdir())
    install(places, users)


@with_systemd
def test_a_link_is_refused(tree: Path, users: Source) -> None:
    places = Places(tree, live=False)
    (users.datadir / "wallets" / "shadow").symlink_to("/etc/shadow")
    with pytest.raises(ServiceError, match="wallets/shadow"):
        install(places, users)
    assert not any(places.data.iterdir())
    assert [one.name for one in places.data.parent.iterdir()] == ["r3mes"]


@with_systemd
def test_a_service_that_has_a_node_keeps_it(tree: Path, users: Source) -> None:
    places = Places(tree, live=False)
    install(places, None)
    with pytest.raises(ServiceHasNode, match="Leave out --import-from"):
        install(places, users)
    assert users.datadir.exists()


@with_systemd
def test_what_holds_no_node_is_refused(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ServiceError, match="holds no node"):
        install(Places(tree, live=False), Source.of(tmp_path / "empty", None))
