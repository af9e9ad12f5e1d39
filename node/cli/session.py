"""What every command starts from: the options before it, and the configuration they lead to.

Only here and in `config` the environment is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from r3mes.config.load import Loaded, load
from r3mes.config.paths import CONFIG_VARIABLE, config_file, config_file_in_force
from r3mes.config.schema import Config
from r3mes.config.secrets import is_there
from r3mes.errors import ConfigError
from r3mes.node.cli.output import say
from r3mes.node.running import read_running


@dataclass(frozen=True, slots=True)
class Session:
    """The options that come before the command.

    Args:
        config: the configuration file that was named; None takes the usual place.
        datadir: where everything is kept, the configuration included; None takes XDG's places.
        own: stay with this user's node, even while there is none and the machine has a service.
    """

    config: Path | None
    datadir: Path | None
    own: bool = False

    @property
    def file(self) -> Path:
        """The configuration file, whether or not it is there."""
        usual = config_file if self.own else config_file_in_force
        return (self.config or usual(os.environ, self.datadir)).absolute()

    def load(self, flags: Mapping[str, object] | None = None, text: str | None = None) -> Loaded:
        """The configuration; with ``text`` as if the file held that.

        Raises:
            ConfigError: it is wrong, or the file that was named is missing.
        """
        if self._named and not is_there(self.file):
            raise ConfigError(f"{self.file} does not exist", do="name another file, or create it")
        return self.load_or_default(flags, text)

    def load_or_default(
        self, flags: Mapping[str, object] | None = None, text: str | None = None
    ) -> Loaded:
        """The configuration; defaults while there is no file."""
        own = {"node.datadir": str(self.datadir)} if self.datadir else {}
        return load(file=self.file, env=os.environ, flags={**own, **(flags or {})}, text=text)

    def to_ask(self) -> Config:
        """The configuration for asking the running node.

        One that became wrong since the node started is no reason not to: the node runs on, and
        what watches it (`r3mes health`) must not take it for dead.

        Raises:
            ConfigError: it is wrong, and no node runs that could be found without it.
        """
        try:
            return self.load().config
        except ConfigError as error:
            config = self._without_file()
            if config is None:
                raise
            say(f"warning {error} The node runs on with what it has read before.")
            return config

    def _without_file(self) -> Config | None:
        """Defaults, if they lead to a node that runs and is surely the one that is meant."""
        if self._named and self.datadir is None:
            return None
        try:
            config = self.load_or_default(text="").config
        except ConfigError:
            return None
        return None if read_running(config.node.datadir) is None else config

    @property
    def _named(self) -> bool:
        return self.config is not None or CONFIG_VARIABLE in os.environ


def session(context: typer.Context, *, own: bool = False) -> Session:
    """The session of a command; one that makes or runs a node asks for this user's ``own``."""
    found = context.find_object(Session)
    if found is None:
        raise RuntimeError("the command runs outside of the application")
    return replace(found, own=own)
