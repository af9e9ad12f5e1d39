"""`r3mes peers`: who is connected and what they serve; connect, disconnect, ban."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from r3mes.node.cli import completion
from r3mes.node.cli.api import call, get
from r3mes.node.cli.everywhere import Command, Group
from r3mes.node.cli.output import duration, show, show_json, table
from r3mes.node.cli.session import session

app = typer.Typer(help="List connected peers; connect, disconnect, ban.", cls=Group)

Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Peer = Annotated[
    str,
    typer.Argument(help="A peer id, as `r3mes peers` shows it.", autocompletion=completion.peer),
]
Banned = Annotated[
    str,
    typer.Argument(help="As `r3mes peers bans` shows it.", autocompletion=completion.banned),
]
BANS_HEAD = ("PEER", "SINCE", "ENDS", "REASON")
HEAD = ("PEER", "MODE", "RTT", "MODELS", "SERVED", "FAILED", "AGE")


@app.callback(invoke_without_command=True)
def peers(context: typer.Context, json: Json = False) -> None:
    """List connected peers and their models, the longest connected first."""
    if context.invoked_subcommand is not None:
        return
    config = session(context).to_ask()
    found = get(config, "/node/status")["peers"]
    if json:
        show_json(found)
    elif found:
        show(table(HEAD, [_row(peer) for peer in found]))
    elif config.p2p.bootstrap:
        show(f"No peer is connected, not even of p2p.bootstrap ({config.p2p.bootstrap[0]}).")
        show("The node goes on trying; `r3mes logs` says why it fails.")
    else:
        show("No peer is connected. Name some as p2p.bootstrap in the configuration.")


@app.command()
def connect(
    context: typer.Context,
    address: Annotated[str, typer.Argument(help="Such as /ip4/203.0.113.5/tcp/7330/p2p/12D3KooW…")],
) -> None:
    """Dial a peer."""
    found = call(session(context).to_ask(), "net_connect", addr=address)
    show(f"connected to {found['peer_id']}, {found['rtt_ms']:.0f} ms there and back")


@app.command()
def disconnect(context: typer.Context, peer: Peer) -> None:
    """Close the connections to a peer; it may come back, unlike one that is banned."""
    call(session(context).to_ask(), "net_disconnect", peer_id=peer)
    show(f"disconnected from {peer}   to keep it away: r3mes peers ban {peer}")


@app.command()
def ban(
    context: typer.Context,
    peer: Peer,
    seconds: Annotated[
        float | None, typer.Option(help="For how long; for good if left out.", min=1)
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for whoever looks at the list.")] = "",
) -> None:
    """Close the connections to a peer and take no new one."""
    config = session(context).to_ask()
    call(config, "net_ban", peer_id=peer, ttl_s=seconds, reason=reason)
    show(f"banned {peer}   to take it back: r3mes peers unban {peer}")


@app.command()
def unban(context: typer.Context, peer: Banned) -> None:
    """Let a banned peer connect again."""
    call(session(context).to_ask(), "net_unban", peer_id=peer)
    show(f"{peer} may connect again")


@app.command(cls=Command)
def bans(context: typer.Context, json: Json = False) -> None:
    """List the bans in force, the newest first."""
    found = call(session(context).to_ask(), "net_bans")
    if json:
        show_json(found)
    elif found:
        show(table(BANS_HEAD, [_ban_row(ban, time.time()) for ban in found]))
    else:
        show("Nobody is banned.")


def _ban_row(ban: Mapping[str, Any], now: float) -> tuple[object, ...]:
    until_ms = ban["until_ms"]
    return (
        ban["peer_id"],
        f"{duration(max(0.0, now - ban['since_ms'] / 1000))} ago",
        "never" if until_ms is None else f"in {duration(max(0.0, until_ms / 1000 - now))}",
        ban["reason"] or "-",
    )


def _row(peer: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        peer["peer_id"],
        peer["mode"],
        "-" if peer["rtt_ms"] is None else f"{peer['rtt_ms']:.0f}ms",
        ",".join(model["name"] for model in peer["models"]) or "-",
        peer["served"],
        peer["failed"],
        duration(peer["age_s"]),
    )
