"""`r3mes models`: what can be asked for, where, and at which price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from r3mes.node.cli.api import get
from r3mes.node.cli.output import show, show_json, table
from r3mes.node.cli.session import session

HEAD = ("MODEL", "SERVED BY", "CONTEXT", "PROMPT/M", "ANSWER/M", "HASH")


def models(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List models and prices (uremes per million tokens)."""
    found = get(session(context).load().config, "/v1/models")["data"]
    if json:
        show_json(found)
    elif found:
        show(table(HEAD, [_row(model) for model in found]))
    else:
        show("No model is known: this node serves none, and no connected peer does.")


def _row(model: Mapping[str, Any]) -> tuple[object, ...]:
    more = model["r3mes"]
    return (
        model["id"],
        model["owned_by"],
        more["context"],
        more["price_prompt"],
        more["price_completion"],
        more["hash"][:12],
    )
