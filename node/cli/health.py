"""`r3mes health`: one bit for container and service managers, as the exit status."""

from __future__ import annotations

from typing import Annotated

import typer

from r3mes.errors import NotReady
from r3mes.node.cli.api import readiness
from r3mes.node.cli.output import show, show_json
from r3mes.node.cli.session import session


def health(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Exit with 0 if the node can answer requests now; needs no key."""
    found = readiness(session(context).to_ask())
    if json:
        show_json(found)
    if not found["ready"]:
        raise NotReady("; ".join(found["reasons"]), do="look at `r3mes status`")
    if not json:
        show("ready")
