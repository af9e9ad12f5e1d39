"""`r3mes models`: what can be asked for, where, at which price; pull, load and unload one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from r3mes.config.load import served_name
from r3mes.config.schema import Config
from r3mes.node.cli import adapters, completion
from r3mes.node.cli.api import call, get
from r3mes.node.cli.everywhere import Command, Group
from r3mes.node.cli.output import duration, show, show_json, size, table
from r3mes.node.cli.session import session
from r3mes.node.running import read_running

app = typer.Typer(help="List models and prices; pull, load and unload this node's own.", cls=Group)

app.add_typer(adapters.app, name="adapters")

Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Model = Annotated[
    str,
    typer.Argument(help="Name of a model of this node.", autocompletion=completion.own_model),
]
AnyModel = Annotated[
    str, typer.Argument(help="Name of a model.", autocompletion=completion.any_model)
]
KEPT_HEAD = ("MODEL", "REVISION", "COMMIT", "SIZE", "FILES", "SERVED")
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


@app.command()
def pull(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Id of the hub: owner/name.")],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit.")] = "main",
    json: Json = False,
) -> None:
    """Pull a model from the hub; run again, it goes on where it stopped."""
    from r3mes.node.cli import pulling

    current = session(context)
    pulling.pull(current.to_ask(), model, revision, json=json)
    if not json:
        chosen = "" if revision == "main" else f" --revision {revision}"
        _next(current.to_ask(), model, f"r3mes models add {model}{chosen}")


@app.command("import")
def take_in(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(help="With config.json and safetensors weights.")],
    name: Annotated[str | None, typer.Option(help="The directory's if left out.")] = None,
    json: Json = False,
) -> None:
    """Copy a model from a directory into the node's own, and check it."""
    from r3mes.node.cli import pulling

    path, current = directory.expanduser().absolute(), session(context)
    called = name or path.name
    pulling.take_in(current.to_ask(), path, called, json=json)
    if not json:
        _next(current.to_ask(), called, f"r3mes models add {called}")


@app.command("list", cls=Command)
def list_kept(context: typer.Context, json: Json = False) -> None:
    """List the models that were pulled or imported, served or not."""
    found = _kept(session(context).to_ask())
    if json:
        show_json(found)
    elif found:
        show(table(KEPT_HEAD, [_kept_row(model) for model in found]))
    else:
        show("No model was pulled yet.   next: r3mes models pull OWNER/NAME")


@app.command()
def rm(context: typer.Context, model: Annotated[str, typer.Argument(help="As listed.")]) -> None:
    """Delete a model that was pulled or imported and is not served."""
    config = session(context).to_ask()
    if read_running(config.node.datadir) is not None:
        freed = call(config, "model_remove", patience_s=60.0, id=model)["freed_bytes"]
    else:
        from r3mes.node.jobs import check_unused, library_of, served_sources

        check_unused(model, served_sources(config))
        freed = library_of(config).remove(model)
    show(f"{model} is deleted, {size(freed)} are free")


@app.command()
def add(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Id of the hub, name, or directory.")],
    name: Annotated[str | None, typer.Option(help="What it is called in the network.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub id.")] = None,
) -> None:
    """Have the node serve a model: a table more in [[models]] of the configuration file."""
    from r3mes.config.editing import replace_file, with_model

    current = session(context)
    text = current.file.read_text() if current.file.exists() else ""
    chosen = {"id": model, "name": name, "revision": revision}
    new = with_model(text, {key: value for key, value in chosen.items() if value is not None})
    config = current.load_or_default(text=new).config
    current.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(current.file, new)
    running = read_running(config.node.datadir) is not None
    when = "when the node is restarted" if running else "when the node starts: r3mes run"
    show(f"{model} is in {current.file}, and served {when}")


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


def _next(config: Config, source: str, command: str) -> None:
    """Say what to do with a model that is there now."""
    served = [served_name(model) for model in config.models if model.id == source]
    show(f"next: r3mes models load {served[0]}" if served else f"next: {command}")


def _kept(config: Config) -> list[dict[str, Any]]:
    """By the running node, else by looking there."""
    if read_running(config.node.datadir) is not None:
        found: list[dict[str, Any]] = call(config, "model_kept")
        return found
    import msgspec

    from r3mes.node.jobs import kept_shown, library_of, served_sources

    served = served_sources(config)
    return [msgspec.to_builtins(kept_shown(one, served)) for one in library_of(config).every()]


def _kept_row(model: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        model["id"],
        model["revision"],
        model["commit"][:12],
        size(model["bytes"]),
        model["files"],
        "yes" if model["configured"] else "no",
    )


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
