"""The options that hold for every command, before or behind its name.

They are taken out before typer looks at the rest: for each value that is not a flag typer imports
pydantic, which alone takes half of the time in which `r3mes status` must have answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

from r3mes.node.cli.session import Session

DEBUG = "--debug"


@dataclass(frozen=True, slots=True)
class Everywhere:
    """One of the options; ``metavar`` is empty for a flag."""

    name: str
    metavar: str
    help: str


OPTIONS = (
    Everywhere("--datadir", "<path>", "Keep everything here, config.toml included."),
    Everywhere("--config", "<path>", "Use this configuration file."),
    Everywhere(DEBUG, "", "Show tracebacks."),
)
VALUES = {option.name for option in OPTIONS if option.metavar}


class Group(TyperGroup):
    """A group of commands that is quick to start, like `Command`."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _settled(super().get_params(ctx))


class Application(Group):
    """All commands, with the options of `OPTIONS`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        values, rest = take(args)
        if missing := next((name for name, value in values.items() if value is None), None):
            ctx.fail(f"Option {missing!r} requires an argument.")
        ctx.obj = _session(values)
        return super().parse_args(ctx, rest)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        ours = [(f"{one.name} {one.metavar}".rstrip(), one.help) for one in OPTIONS]
        theirs = [record for one in self.get_params(ctx) if (record := one.get_help_record(ctx))]
        with formatter.section("Options"):
            formatter.write_dl([*ours, *theirs])
        self.format_commands(ctx, formatter)


class Command(TyperCommand):
    """A command that is quick to start if flags are all that it takes."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _settled(super().get_params(ctx))


def _settled(params: list[Any]) -> list[Any]:
    """``params`` with typer's own flags, such as ``--help``, off and not unset: see above."""
    for param in params:
        if param.default is None and param.type_descriptor.annotation is bool:
            param.default = False
    return params


def take(arguments: Sequence[str]) -> tuple[dict[str, str | None], list[str]]:
    """The values of our options, None for one that is missing, and all other words."""
    values: dict[str, str | None] = {}
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            return values, [*rest, word, *words]
        if name in VALUES:
            values[name] = value if equals else next(words, None)
        elif word != DEBUG:
            rest.append(word)
    return values, rest


def _session(values: dict[str, str | None]) -> Session:
    config, datadir = values.get("--config"), values.get("--datadir")
    return Session(
        config=Path(config) if config else None,
        datadir=Path(datadir).expanduser().absolute() if datadir else None,
    )
