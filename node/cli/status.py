"""`r3mes status`: does the node serve, and if not, why and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from r3mes.node.cli.advice import advise
from r3mes.node.cli.api import get
from r3mes.node.cli.output import duration, remes, short, show, show_json, size
from r3mes.node.cli.session import session


def status(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show whether the node serves, and if not, why."""
    found = get(session(context).to_ask(), "/node/status")
    if json:
        show_json(found)
    else:
        show("\n".join(lines(found)))


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The status for people, a line for each subject."""
    node, *others = brief(found)
    yield node
    yield f"Network  {found['chain_id']} · " + (" ".join(found["addrs"]) or "no address")
    yield f"Reach    {found['reachability']['verdict'].upper()}"
    for model in found["models"] or [None]:
        yield "Models   " + (_model(model) if model else "none of its own; requests go to peers")
    if found["engine"].startswith("none"):
        yield f"Engine   {found['engine']}"
    yield from others


def brief(found: Mapping[str, Any]) -> Iterator[str]:
    """The same without what is better shown as a table."""
    ready = "ready" if found["ready"] else "not ready: " + "; ".join(found["reasons"])
    up = duration(found["uptime_s"])
    yield f"Node     {short(found['peer_id'])} · up {up} · {ready} · {found['version']}"
    yield f"Load     {_load(found['load'])}"
    yield f"Lately   {_recent(found['last_60s'])}"
    routed = found["routed"]
    yield f"Peers    {len(found['peers'])}   routed in {routed['in']} · out {routed['out']}"
    if (today := found["today"]) is not None:
        earned, spent = remes(today["earned_uremes"]), remes(today["spent_uremes"])
        yield f"Earned   {earned} today · spent {spent}"
    yield f"Wallet   {found['wallet']['address']}"
    for warning in found.get("warnings", ()):
        yield f"Warning  {warning}"
    if advice := advise(found):
        yield f"Next     {advice.do}   ({advice.why})"


def _model(model: Mapping[str, Any]) -> str:
    idle = model["idle_s"]
    parts = (
        model["name"],
        None if model["engine"] == "none" else model["engine"],
        model["device"],
        size(model["memory_bytes"]) if model["memory_bytes"] else None,
        f"ctx {model['context']}" if model["context"] else None,
        model["state"] if idle is None else f"{model['state']}, idle {duration(idle)}",
        model["why"],
    )
    return "  ".join(str(part) for part in parts if part)


def _load(load: Mapping[str, Any]) -> str:
    return f"{load['running']} running · {load['queued']} queued · {load['slots']} slots"


def _recent(last: Mapping[str, Any]) -> str:
    refused = f" {last['refused']} refused" if last["refused"] else ""
    ttft = last["ttft_p50_s"]
    first = f", ttft p50 {ttft:.2f} s" if ttft is not None else ""
    return f"last 60 s: {last['ok']} ok {last['failed']} failed{refused}{first}"
