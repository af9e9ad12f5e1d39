"""`r3mes models adapters`: LoRA adapters, loaded and put away while the node runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from r3mes.node.cli import completion
from r3mes.node.cli.api import call
from r3mes.node.cli.everywhere import Command, Group
from r3mes.node.cli.output import show, show_json, size, table
from r3mes.node.cli.session import session

app = typer.Typer(help="List, load and unload LoRA adapters of this node's models.", cls=Group)

HEAD = ("ADAPTER", "STATE", "IN MEMORY", "SIZE", "HASH", "FROM")
LOAD_S = 3600.0
Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Adapter = Annotated[
    str,
    typer.Argument(
        help="Model and adapter, such as qwen3:support.", autocompletion=completion.own_adapter
    ),
]


@app.callback(invoke_without_command=True)
def adapters(context: typer.Context, json: Json = False) -> None:
    """List this node's LoRA adapters."""
    if context.invoked_subcommand is not None:
        return
    found = call(session(context).to_ask(), "model_adapters")
    if json:
        show_json(found)
    elif found:
        show(table(HEAD, [_row(adapter) for adapter in found]))
    else:
        show("There is none. Name some as [[adapters]] in the configuration, or load one:")
        show("  r3mes models adapters load MODEL:NAME DIRECTORY")


@app.command(cls=Command)
def load(
    context: typer.Context,
    adapter: Adapter,
    source: Annotated[
        str | None,
        typer.Argument(help="A directory, or a hub id; where it came from before if left out."),
    ] = None,
    revision: Annotated[str, typer.Option(help="Commit, branch or tag of a hub id.")] = "main",
    sha256: Annotated[str | None, typer.Option(help="The hash that its files must have.")] = None,
) -> None:
    """Load an adapter, also in place of one of its name, without stopping any answer."""
    found = call(
        session(context).to_ask(), "model_loadAdapter", patience_s=LOAD_S,
        id=adapter, source=_absolute(source), revision=revision, hash=sha256,
    )  # fmt: skip
    show(f"{found['id']}: {found['state']}   hash {found['hash'][:12]}   "
         f"next: r3mes chat --model {found['id']}")  # fmt: skip


@app.command()
def unload(
    context: typer.Context,
    adapter: Adapter,
    deadline_s: Annotated[
        float | None, typer.Option(help="Seconds that answers in flight may go on.", min=0)
    ] = None,
) -> None:
    """Stop offering an adapter and free its memory."""
    config = session(context).to_ask()
    patience = config.limits.drain_seconds if deadline_s is None else deadline_s
    found = call(
        config, "model_unloadAdapter", patience_s=patience, id=adapter, deadline_s=deadline_s
    )
    again = f"r3mes models adapters load {found['id']}"
    show(f"{found['id']}: {found['state']}   to have it back: {again}")


def _absolute(source: str | None) -> str | None:
    """The node may have been started in another folder."""
    path = Path(source).expanduser() if source else None
    return str(path.resolve()) if path and path.is_dir() else source


def _row(adapter: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        adapter["id"],
        adapter["state"] if adapter["why"] is None else f"{adapter['state']}: {adapter['why']}",
        "yes" if adapter["in_memory"] else "no",
        size(adapter["memory_bytes"]),
        adapter["hash"][:12] if adapter["hash"] else "-",
        adapter["source"],
    )
