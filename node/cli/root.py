"""The application: global options, and the commands in the order in which one meets them."""

from __future__ import annotations

import platform
from typing import Annotated

import typer

from r3mes.node.cli import (
    backup,
    chat,
    config,
    demo,
    doctor,
    health,
    init,
    keys,
    logs,
    models,
    peers,
    routes,
    run,
    service,
    status,
    top,
    wallet,
)
from r3mes.node.cli.everywhere import Application, Command
from r3mes.node.cli.output import show

app = typer.Typer(
    name="r3mes",
    cls=Application,
    help="A node of the R3MES network: serve AI models to others, use those of others.",
    epilog="Start with: r3mes init",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        where = f"{platform.system().lower()}-{platform.machine()}"
        python = platform.python_version()
        show(f"r3mes {version('r3mes')} (python {python}, torch {_torch()}, {where})")
        raise typer.Exit


def _torch() -> str:
    """Its version without importing it, which takes seconds."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch")
    except PackageNotFoundError:
        return "missing"


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Take the option that comes instead of a command."""


COMMANDS = (
    doctor.doctor,
    init.init,
    run.run,
    chat.chat,
    status.status,
    health.health,
    logs.logs,
    top.top,
)
for command in COMMANDS:
    app.command(cls=Command)(command)
app.add_typer(peers.app, name="peers")
app.add_typer(models.app, name="models")
app.add_typer(routes.app, name="routes")
app.add_typer(wallet.app, name="wallet")
app.add_typer(keys.app, name="keys")
app.add_typer(config.app, name="config")
app.add_typer(service.app, name="service")
app.add_typer(backup.app, name="backup", no_args_is_help=True)
app.command()(demo.demo)
