"""`r3mes models`: what can be asked for, where, and at which price; load and unload one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from r3mes.node.cli import adapters, completion
from r3mes.node.cli.api import call, get
from r3mes.node.cli.everywhere import Command, Group
from r3mes.node.cli.output import duration, show, show_json, size, table
from r3mes.node.cli.session import session

app = typer.Typer(help="List models and prices; load and unload this node's own.", cls=Group)

app.add_typer(adapters.app, name="adapters")

Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Model = Annotated[
    str,
    typer.Argument(help="Name of a model of this node.", autocompletion=completion.own_model),
]
AnyModel = Annotated[
    str, typer.Argument(help="Name of a model.", autocompletion=completion.any_model)
]
HEAD = ("MODEL", "SERVED BY", "CONTEXT", "PROMPT/M", "ANSWER/M", "HASH")
PS_HEAD = ("MODEL", "STATE", "ENGINE", "DEVICE", "MEMORY", "CONTEXT", "RUNNING", "WAITING", "IDLE")


@app.callback(invoke_without_command=True)
def models(context: typer.Context, json: Json = False) -> None:
    """List what can be asked for, with prices in uremes per million tokens."""
    if context.invoked_subcommand is not None:
        return
    found = get(session(context).to_ask(), "/v1/models")["data"]
    if json:
        show_json(found)
    elif found:
        show(table(HEAD, [_row(model) for model in found]))
    else:
        show("No model is known: this node serves none, and no connected peer does.")


@app.command(cls=Command)
def ps(context: typer.Context, json: Json = False) -> None:
    """Show this node's models at work: state, device, memory, how busy."""
    found = call(session(context).to_ask(), "model_ps")
    if json:
        show_json(found)
    elif found:
        show(table(PS_HEAD, [_ps_row(process) for process in found]))
    else:
        show("This node has no model of its own. Name some as [[models]] in the configuration.")


@app.command("show")
def show_model(context: typer.Context, model: AnyModel, json: Json = False) -> None:
    """Show one model: what this node knows of it, and who offers it."""
    found = call(session(context).to_ask(), "model_show", id=model)
    if json:
        show_json(found)
        return
    rows = [(name, value) for name, value in (found["local"] or {}).items() if value is not None]
    show(table(("MODEL", found["id"]), rows))
    for offer in found["offers"]:
        price = f"{offer['price_prompt']} / {offer['price_completion']} uremes per million tokens"
        show(f"offered by {offer['served_by']} at {price}")


@app.command()
def load(context: typer.Context, model: Model) -> None:
    """Load a model that was unloaded, or try again one that failed."""
    found = call(session(context).to_ask(), "model_load", id=model)
    show(f"{found['id']}: {found['state']}   next: r3mes models ps")


@app.command()
def unload(
    context: typer.Context,
    model: Model,
    deadline_s: Annotated[
        float | None, typer.Option(help="Seconds that answers in flight may go on.", min=0)
    ] = None,
) -> None:
    """Stop offering a model and free its memory."""
    config = session(context).to_ask()
    patience = config.limits.drain_seconds if deadline_s is None else deadline_s
    found = call(config, "model_unload", patience_s=patience, id=model, deadline_s=deadline_s)
    show(f"{found['id']}: {found['state']}   to have it back: r3mes models load {model}")


@app.command()
def verify(context: typer.Context, model: Model, json: Json = False) -> None:
    """Compare a loaded model with its files on disk; exit 1 if they differ."""
    found = call(session(context).to_ask(), "model_verify", patience_s=3600.0, id=model)
    if json:
        show_json(found)
    else:
        what = "as loaded" if found["ok"] else f"not what was loaded ({found['expected'][:12]})"
        show(f"{'ok' if found['ok'] else 'CHANGED'}  {found['id']}: {len(found['files'])} files in "
             f"{found['directory']}, {what}   hash {found['found'][:12]}")  # fmt: skip
        for name, how in found["differing"].items():
            show(f"{how:<8} {name}")
    if not found["ok"]:
        raise typer.Exit(1)


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


def _ps_row(process: Mapping[str, Any]) -> tuple[object, ...]:
    idle = process["idle_s"]
    return (
        process["id"],
        process["state"],
        process["engine"] or "-",
        process["device"] or "-",
        size(process["memory_bytes"]),
        process["context"] or "-",
        f"{process['running']} of {process['slots']}",
        process["waiting"],
        "-" if idle is None else duration(idle),
    )
