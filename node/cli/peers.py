"""`r3mes peers`: who is connected and what they serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from r3mes.node.cli.api import get
from r3mes.node.cli.output import duration, show, show_json, table
from r3mes.node.cli.session import session

HEAD = ("PEER", "MODE", "RTT", "MODELS", "SERVED", "FAILED", "AGE")


def peers(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List connected peers and their models."""
    found = get(session(context).load().config, "/node/status")["peers"]
    if json:
        show_json(found)
    elif found:
        show(table(HEAD, [_row(peer) for peer in found]))
    else:
        show("No peer is connected. Name some as p2p.bootstrap in the configuration.")


def _row(peer: Mapping[str, Any]) -> tuple[object, ...]:
    models = ",".join(model["name"] for model in peer["models"]) or "-"
    rtt = "-" if peer["rtt_ms"] is None else f"{peer['rtt_ms']:.0f}ms"
    counts = (peer["served"], peer["failed"], duration(peer["age_s"]))
    return peer["peer_id"], peer["mode"], rtt, models, *counts
