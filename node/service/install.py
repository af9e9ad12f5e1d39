"""What makes a service of a node, and what takes it away again, as a list of steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from r3mes.config.editing import with_value
from r3mes.config.load import Loaded, load
from r3mes.config.paths import APP, SYSTEM_CONFIG, SYSTEM_DATA
from r3mes.config.secrets import is_there
from r3mes.errors import ServiceError, ServiceHasNode
from r3mes.node.cli.init import TEMPLATE
from r3mes.node.service import reach
from r3mes.node.service.node import CopyNode, MakeNode, has_node
from r3mes.node.service.places import (
    ADMIN_SOCKET,
    API_KEY,
    CREDENTIAL_DROP_IN,
    GPU_DROP_IN,
    UNIT,
    Places,
    shipped,
)
from r3mes.node.service.steps import Put, Remove, Run, SetAside, Step

EXEC_START = "ExecStart=/usr/local/bin/r3mes "
"""In the unit that is shipped."""


@dataclass(frozen=True, slots=True)
class Source:
    """A node of a user that the service is to have.

    Args:
        datadir: where its data are.
        config: its configuration file, if it has one.
    """

    datadir: Path
    config: Path

    @classmethod
    def of(cls, datadir: Path, named: Path | None) -> Source:
        """The node in ``datadir``, and the configuration that belongs to it.

        That is the one that is ``named``, the one in the directory, or the one of the user in
        whose home it is.
        """
        datadir = datadir.expanduser().absolute()
        inside = datadir / SYSTEM_CONFIG.name
        home = next((one for one in datadir.parents if one / ".local/share" / APP == datadir), None)
        if named is None and home is not None and not is_there(inside):
            return cls(datadir, home / ".config" / APP / SYSTEM_CONFIG.name)
        return cls(datadir, named or inside)

    def load(self) -> Loaded:
        """Its configuration; defaults where it has no file."""
        return load(file=self.config, env={}, flags={"node.datadir": str(self.datadir)})


@dataclass(frozen=True, slots=True)
class Credential:
    """The drop-in for a passphrase that is sealed, once it is."""

    places: Places

    def would(self) -> str:
        return f"where {self.places.credential} is then: {self._put().would()}"

    def do(self) -> str:
        return self._put().do() if self.places.credential.exists() else ""

    def _put(self) -> Put:
        name = CREDENTIAL_DROP_IN
        return Put(self.places.drop_in(name), shipped(f"{UNIT}.d/{name}"))


def unreachable(
    places: Places, program: reach.Program, source: Source | None = None
) -> Iterator[reach.Unreachable]:
    """What the service would not see."""
    yield from reach.of_program(program)
    text = _config_text(places, source)
    config = load(file=places.config, env={}, flags={}, text=text).config
    yield from reach.of_config(config, _given(places, source))


def installation(places: Places, executable: Path, source: Source | None = None) -> Iterator[Step]:
    """The steps; what can be refused is refused before the first.

    Raises:
        ServiceHasNode: there is one, and another is to be imported.
        ConfigError: a configuration is wrong.
    """
    there = has_node(places)
    if there and source is not None:
        raise ServiceHasNode(
            f"the service has a node already, in {places.data}",
            do="leave out --import-from to keep it, or stop it and "
            f"run `sudo mv {places.data} {places.data}.old`",
        )
    imported = source.load().config if source else None
    config = _config_text(places, source)
    yield Put(places.sysusers, shipped("r3mes.sysusers"))
    yield Put(places.tmpfiles, shipped("r3mes.tmpfiles"))
    yield Run([*places.in_root("systemd-sysusers"), str(places.sysusers)])
    yield Run([*places.in_root("systemd-tmpfiles"), "--create", str(places.tmpfiles)])
    yield Put(places.config, config)
    if source and imported:
        yield CopyNode(places, source.datadir, imported)
        yield SetAside(source.datadir)
        if source.config.parent != source.datadir and is_there(source.config):
            yield SetAside(source.config)
    elif not there:
        yield MakeNode(places)
    yield Put(places.unit, unit_text(executable))
    yield from _gpu(places)
    yield Credential(places)
    if places.live:
        yield Run(["systemctl", "daemon-reload"])
    yield Run([*places.in_root("systemctl"), "enable", UNIT])
    if places.live:
        yield Run(["systemctl", "restart", UNIT])


def removal(places: Places) -> Iterator[Step]:
    """The steps that undo it, but for data, configuration and account."""
    if places.unit.exists():
        now = ["--now"] if places.live else []
        yield Run([*places.in_root("systemctl"), "disable", *now, UNIT])
    drop_ins = (places.drop_in(name) for name in (GPU_DROP_IN, CREDENTIAL_DROP_IN))
    ours = there(*drop_ins, places.unit, places.sysusers, places.tmpfiles)
    yield from map(Remove, ours)
    if places.live and ours:
        yield Run(["systemctl", "daemon-reload"])


def there(*paths: Path) -> list[Path]:
    """Those that are there."""
    return [path for path in paths if path.exists()]


def unit_text(executable: Path) -> str:
    """The unit that starts ``executable``."""
    path = str(executable).replace("%", "%%")
    quoted = f'"{path}"' if any(letter in path for letter in " \t\"'\\;") else path
    return shipped(UNIT).replace(EXEC_START, f"ExecStart={quoted} ")


def _given(places: Places, source: Source | None) -> Path:
    """The configuration to start from; what an administrator has put in place comes first."""
    return places.config if source is None or is_there(places.config) else source.config


def _config_text(places: Places, source: Source | None) -> str:
    """The service's configuration: what is there, what comes along, or a new one."""
    given = _given(places, source)
    text = given.read_text() if is_there(given) else TEMPLATE
    origins = load(file=given, env={}, flags={}, text=text).origins
    own = {
        "node.datadir": SYSTEM_DATA,
        "api.admin_socket": ADMIN_SOCKET,
        "api.key_file": SYSTEM_DATA / API_KEY,
    }
    for key, value in own.items():
        if given != places.config or origins[key] == "default":
            text = with_value(text, key, str(value))
    if given != places.config:
        text = with_value(text, "wallet.passphrase_file", None)
    config = load(file=places.config, env={}, flags={}, text=text).config
    if config.node.datadir != SYSTEM_DATA:
        raise ServiceError(
            f"{places.config} sets node.datadir, but the data of a service are in {SYSTEM_DATA}",
            do="take that line out",
        )
    return text


def _gpu(places: Places) -> Iterator[Step]:
    path = places.drop_in(GPU_DROP_IN)
    if places.has_gpu():
        render = "SupplementaryGroups=render\n" if places.has_group("render") else ""
        yield Put(path, shipped(f"{UNIT}.d/{GPU_DROP_IN}") + render)
    elif path.exists():
        yield Remove(path)
