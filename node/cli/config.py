"""`r3mes config`: what the configuration is, where each value comes from, whether it is right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from r3mes.config.keys import TABLES
from r3mes.config.load import Loaded, all_keys, check_value, load, value_of
from r3mes.config.sources import known_key, known_section
from r3mes.errors import ConfigError
from r3mes.node.cli import completion
from r3mes.node.cli.api import call
from r3mes.node.cli.output import show, show_json
from r3mes.node.cli.session import Session, session
from r3mes.node.running import read_running

app = typer.Typer(help="Show, check and change the configuration.", no_args_is_help=True)

SingleKey = Annotated[
    str, typer.Argument(help="Such as log.level.", autocompletion=completion.config_key)
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@app.command("show")
def show_config(
    context: typer.Context,
    key: Annotated[
        str | None,
        typer.Argument(
            help="Such as api.listen; all if left out.", autocompletion=completion.config_key
        ),
    ] = None,
    origin: Annotated[bool, typer.Option("--origin", help="Also where it comes from.")] = False,
    json: Json = False,
) -> None:
    """Show the values in force."""
    loaded = session(context).load()
    names = [_known(key)] if key else [*all_keys(), *TABLES]
    if json:
        show_json({name: _entry(loaded, name, origin=origin) for name in names})
    elif key and not origin:
        value = _plain(value_of(loaded.config, key))
        show(value if isinstance(value, str) else _toml(value))
    else:
        for name in names:
            line = f"{name} = {_value(loaded, name)}"
            show(f"{line:<60}  # {loaded.origins.get(name, 'default')}" if origin else line)


@app.command()
def check(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="Another file than the one in use.")] = None,
) -> None:
    """Check the configuration; exit 78 if it is wrong."""
    current = session(context)
    loaded = (Session(file, current.datadir) if file else current).load()
    read = "" if loaded.file.exists() else " (there is no such file: defaults)"
    show(f"ok  {loaded.file}{read}")


@app.command()
def path(context: typer.Context) -> None:
    """Show which file is used."""
    show(str(session(context).file))


@app.command("set")
def set_value(context: typer.Context, key: SingleKey, value: str) -> None:
    """Change one value in the file; comments stay, and a running node takes it over if it can."""
    name = _single(key)
    wanted = all_keys()[name].parse(value)
    check_value(name, wanted, "argument VALUE")
    _change(context, name, wanted)


@app.command()
def unset(context: typer.Context, key: SingleKey) -> None:
    """Take one value out of the file, so that the default is back."""
    _change(context, _single(key), None)


def _change(context: typer.Context, name: str, value: object) -> None:
    """By the running node, else in the file, which must be right before and after."""
    current = session(context)
    loaded = current.load_or_default()
    if read_running(loaded.config.node.datadir) is not None:
        done = call(loaded.config, "config_set", path=name, value=value)
        if done["overridden_by"]:
            show(f"{name} is changed in the file, but {done['overridden_by']} overrides it")
        else:
            when = "in force" if done["in_force"] else "in force after a restart"
            show(f"{name} = {_value(current.load_or_default(), name)}: {when}")
        return
    from r3mes.config.editing import replace_file, with_value

    text = current.file.read_text() if current.file.exists() else ""
    new = with_value(text, name, value)
    wanted = load(file=current.file, env={}, flags={}, text=new)
    current.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(current.file, new)
    show(f"{name} = {_value(wanted, name)}: in force when the node starts   {current.file}")


def _single(key: str) -> str:
    if (section := key.partition(".")[0]) in TABLES:
        raise ConfigError(
            f"{section} are changed in the file itself", do="`r3mes config path` says which"
        )
    name = _known(key)
    if "." not in name:
        raise ConfigError(f"{key} is a section: name one of its keys", do="such as log.level")
    return name


def _known(key: str) -> str:
    section, _, name = key.partition(".")
    known_section(section, "argument KEY")
    if name and section in TABLES:
        raise ConfigError(f"{section} are shown whole", do=f"run `r3mes config show {section}`")
    return known_key(section, name, "argument KEY") if name else section


def _value(loaded: Loaded, name: str) -> str:
    return _toml(_plain(value_of(loaded.config, name)))


def _entry(loaded: Loaded, name: str, *, origin: bool) -> object:
    value = _plain(value_of(loaded.config, name))
    if not origin:
        return value
    return {"value": value, "origin": loaded.origins.get(name, "default")}


def _plain(value: object) -> object:
    return msgspec.to_builtins(value, enc_hook=str)


def _toml(value: object) -> str:
    """``value`` as it would stand in the file; TOML has nothing for None."""
    return "(not set)" if value is None else msgspec.json.encode(value).decode()
