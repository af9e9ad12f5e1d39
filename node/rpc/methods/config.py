"""The configuration: what is in force and why, whether another would hold, one value changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
from pydantic import Field

from r3mes.config.editing import with_value
from r3mes.config.keys import TABLES
from r3mes.config.load import Loaded, all_keys, check_value, value_of
from r3mes.config.sources import known_key, known_section
from r3mes.errors import BadRequest, ConfigError
from r3mes.node.audit import audit
from r3mes.node.reload import Reload
from r3mes.node.rpc.context import Context
from r3mes.node.rpc.method import method

Key = Annotated[str, Field(max_length=100, description="Such as `log.level`.")]
Toml = Annotated[str, Field(max_length=512 * 1024)]
Text = Annotated[str, Field(max_length=4096)]
Value = bool | int | float | Text | Annotated[list[Text], Field(max_length=256)] | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A value in force and where it comes from.

    Args:
        origin: `default`, `file PATH:LINE`, `env NAME` or `flag --NAME`.
    """

    value: object
    origin: str


@dataclass(frozen=True, slots=True)
class Issue:
    """What is wrong with a configuration, and what to do about it."""

    what: str
    do: str


@dataclass(frozen=True, slots=True)
class ValueSet:
    """What came of it.

    Args:
        in_force: whether the node goes by the new value now.
        needs_restart: whether it will after the next start.
        overridden_by: where another value comes from, which goes before that of the file.
    """

    in_force: bool
    needs_restart: bool
    overridden_by: str | None


class ConfigMethods:
    """The namespace ``config``."""

    def __init__(self, reload: Reload) -> None:
        self._reload = reload

    @method("config_get", scope="a", errors=(ConfigError,))
    async def get(
        self,
        path: Annotated[
            str | None, Field(max_length=100, description="A key or a section; all if left out.")
        ] = None,
    ) -> dict[str, Entry]:
        """The values in force by their keys; of secrets, which are files, the names."""
        return entries(self._reload.loaded, path)

    @method("config_check", scope="a")
    async def check(
        self,
        toml: Annotated[
            Toml | None, Field(description="What the file would hold; what it holds if left out.")
        ] = None,
    ) -> list[Issue]:
        """What would be wrong with a configuration; empty if nothing. Changes nothing."""
        try:
            await self._reload.check(toml)
        except ConfigError as error:
            return [Issue(error.detail, error.do)]
        return []

    @method("config_set", scope="a", errors=(ConfigError,))
    async def set(
        self,
        path: Key,
        value: Annotated[Value, Field(description="null takes it out: the default is back.")],
        context: Context,
    ) -> ValueSet:
        """Change one value in the configuration file, and take it over if a running node can.

        Comments in the file stay. A value that does not hold changes nothing. Models, adapters and
        routes are changed in the file itself, routes by `route_add`, too.
        """
        key = _key(path)
        if value is not None:
            check_value(key, value, "value")
        wanted, done = await self._reload.edit(
            lambda text: with_value(text, key, value),
            lambda: audit("config_set", name=key, by=context.key.name, key=context.key.id),
        )
        origin, needs_restart = wanted.origins[key], key in done.needs_restart
        overridden_by = None if origin.startswith(("file ", "default")) else origin
        in_force = not needs_restart and overridden_by is None
        return ValueSet(in_force, needs_restart, overridden_by)


def _key(path: str) -> str:
    section, _, name = path.partition(".")
    known_section(section, "path")
    if section in TABLES or not name:
        raise BadRequest("only single keys can be set", param="path")
    return known_key(section, name, "path")


def _names(path: str | None) -> list[str]:
    every = [*all_keys(), *TABLES]
    if path is None:
        return every
    section, _, name = path.partition(".")
    known_section(section, "path")
    if section in TABLES:
        return [section]
    if name:
        return [known_key(section, name, "path")]
    return [key for key in every if key.startswith(f"{section}.")]


def entries(loaded: Loaded, path: str | None = None) -> dict[str, Entry]:
    """The values of a key, of a section, or all.

    Raises:
        ConfigError: there is no such key.
    """
    return {name: _entry(loaded, name) for name in _names(path)}


def _entry(loaded: Loaded, name: str) -> Entry:
    value = msgspec.to_builtins(value_of(loaded.config, name), enc_hook=str)
    return Entry(value, loaded.origins.get(name, "default"))
