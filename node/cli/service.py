"""`r3mes service`: the node as a service of systemd: put in place, taken away, looked at."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r3mes.config.load import load
from r3mes.config.paths import SYSTEM_CONFIG
from r3mes.config.secrets import is_there
from r3mes.errors import (
    Forbidden,
    NodeNotRunning,
    NoSystemd,
    R3mesError,
    ServiceError,
    ServiceUnreachable,
)
from r3mes.node.cli.everywhere import Command
from r3mes.node.cli.output import say, show, show_json
from r3mes.node.cli.session import session

if TYPE_CHECKING:
    from r3mes.node.service.places import Places
    from r3mes.node.service.state import UnitState
    from r3mes.node.service.steps import Step

app = typer.Typer(help="Run the node as a service of systemd.", no_args_is_help=True)

BOOTED = Path("/run/systemd/system")
"""There where systemd started the machine; see sd_booted(3)."""
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, in full.")]
Root = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="The tree of another machine, such as an image's; not started."
    ),
]


@app.command()
def install(
    context: typer.Context,
    import_from: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Move the node in this data directory of a user here."),
    ] = None,
    root: Root = None,
    dry_run: DryRun = False,
) -> None:
    """Make the node a service and start it; or renew what an older version installed."""
    from r3mes.node.service.install import Source, installation, unreachable
    from r3mes.node.service.reach import Program

    places, program = _places(root, dry_run=dry_run), Program.running()
    source = Source.of(import_from, session(context).config) if import_from else None
    if missing := list(unreachable(places, program, source)):
        say("\n".join(map(str, missing)))
        raise ServiceUnreachable()
    _take(installation(places, program.executable, source), dry_run=dry_run)
    if not dry_run:
        show("\n".join(_after(places)))


@app.command()
def uninstall(root: Root = None, dry_run: DryRun = False) -> None:
    """Stop the service and take its files away; data and configuration stay."""
    from r3mes.node.service.install import removal, there

    places = _places(root, dry_run=dry_run)
    _take(removal(places), dry_run=dry_run)
    for path in there(places.data, places.config, places.credential):
        show(f"Left     {path}")


@app.command(cls=Command)
def status(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what systemd says of the service, and what its node says."""
    from r3mes.node.service.state import unit_state

    unit = unit_state()
    node: dict[str, Any] | None = None
    problem: R3mesError | None = None
    try:
        node = _ask(session(context).config or SYSTEM_CONFIG)
    except R3mesError as error:
        problem = error
    if json:
        error_code = problem.kind.code if problem else None
        show_json({"unit": asdict(unit), "node": node, "error": error_code})
    else:
        from r3mes.node.cli.status import lines

        show("\n".join([_line(unit), *(lines(node) if node else ())]))
    if problem is not None:
        raise problem if unit.installed else _not_installed()


def _places(root: Path | None, *, dry_run: bool) -> Places:
    """Where to, if this user may and this machine can.

    Raises:
        Forbidden: not root, who alone may also look at all that is there.
        NoSystemd: nothing could start a service.
    """
    from r3mes.node.service.places import Places

    if os.geteuid() != 0:
        raise Forbidden(
            "only root can see and change the services of a machine", do=f"run `{_as_root()}`"
        )
    if root is not None:
        if not root.is_dir():
            raise ServiceError(f"{root} is no directory", do="name the root of a tree")
        return Places(root.resolve(), live=False)
    if not dry_run and not BOOTED.is_dir():
        raise NoSystemd()
    return Places()


def _as_root() -> str:
    """This very command, for root, who may have another PATH."""
    return shlex.join(["sudo", str(Path(sys.argv[0]).absolute()), *sys.argv[1:]])


def _take(steps: Iterable[Step], *, dry_run: bool) -> None:
    """All steps, once none of them is refused."""
    for step in list(steps):
        if said := step.would() if dry_run else step.do():
            show(said)


def _after(places: Places) -> Iterable[str]:
    if not places.live:
        yield "Not started: it starts with the machine whose tree this is."
        return
    from r3mes.node.service.state import unit_state

    yield _line(unit_state())
    yield "To use it without sudo: sudo usermod -aG r3mes $USER   (then log in again)"
    yield "next: r3mes service status"


def _line(unit: UnitState) -> str:
    if not unit.installed:
        return "Service  not installed"
    parts = [f"{unit.active} ({unit.detail})", unit.enabled or "not enabled"]
    parts += [f"pid {unit.pid}"] if unit.pid else [f"last exit {unit.exit_status}"]
    parts += [f"{unit.restarts} restarts"] if unit.restarts else []
    return "Service  " + " · ".join(parts) + (f"   {unit.says}" if unit.says else "")


def _ask(file: Path) -> dict[str, Any]:
    from r3mes.node.cli.api import get

    if not is_there(file):
        raise _not_installed()
    found: dict[str, Any] = get(load(file=file, env={}, flags={}).config, "/node/status")
    return found


def _not_installed() -> NodeNotRunning:
    return NodeNotRunning("the service is not installed", do="run `sudo r3mes service install`")
