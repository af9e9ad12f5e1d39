"""`r3mes top`: the node live, on a terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from r3mes.errors import BadRequest
from r3mes.node.cli.session import session


def top(
    context: typer.Context,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2)] = 1.0,
) -> None:
    """Watch the node live: load, models, peers, answers, log; q quits."""
    config = session(context).to_ask()
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadRequest("this is no terminal", do="use `r3mes status --json` in a script")

    from r3mes.node.cli.screen import Screen, look

    Screen(lambda: look(config), every=every).run()
