"""`r3mes status`: does the node serve, and if not, why and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from r3mes.node.cli.advice import advise
from r3mes.node.cli.api import get
from r3mes.node.cli.output import duration, short, show, show_json
from r3mes.node.cli.session import session


def status(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show whether the node serves, and if not, why."""
    found = get(session(context).load().config, "/node/status")
    if json:
        show_json(found)
    else:
        show("\n".join(lines(found)))


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The status for people, a line for each subject."""
    ready = "ready" if found["ready"] else "not ready: " + "; ".join(found["reasons"])
    up = duration(found["uptime_s"])
    yield f"Node     {short(found['peer_id'])} · up {up} · {ready} · {found['version']}"
    yield f"Network  {found['chain_id']} · " + (" ".join(found["addrs"]) or "no address")
    yield f"Reach    {found['reachability']['verdict'].upper()}"
    for model in found["models"] or [None]:
        yield "Models   " + (_model(model) if model else "none of its own; requests go to peers")
    load = found["load"]
    yield (f"Load     {load['running']} running · {load['queued']} queued · {load['slots']} slots")
    yield f"Peers    {len(found['peers'])}"
    yield f"Wallet   {found['wallet']['address']}"
    for warning in found.get("warnings", ()):
        yield f"Warning  {warning}"
    if advice := advise(found):
        yield f"Next     {advice.do}   ({advice.why})"


def _model(model: Mapping[str, Any]) -> str:
    context = f"ctx {model['context']}" if model["context"] else None
    parts = (model["name"], model["device"], context, model["state"], model["why"])
    return "  ".join(str(part) for part in parts if part)
