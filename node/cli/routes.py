"""`r3mes routes`: which kinds of prompts `--model auto` knows, and where a prompt would go."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from r3mes.node.cli import completion
from r3mes.node.cli.api import call
from r3mes.node.cli.everywhere import Command, Group
from r3mes.node.cli.output import show, show_json, table
from r3mes.node.cli.session import session

app = typer.Typer(help="List, test, add and remove the routes of --model auto.", cls=Group)

Json = Annotated[bool, typer.Option("--json", help="For programs.")]
HEAD = ("ROUTE", "MODEL", "EXAMPLES", "HELD OUT")
METHODS = ("COMPARED BY", "SCORE FROM", "MARGIN FROM", "PROMPTS", "RIGHT", "ABSTAINED", "WRONG")


@app.callback(invoke_without_command=True)
def routes(context: typer.Context, json: Json = False) -> None:
    """List the routes, and from when on the router abstains."""
    if context.invoked_subcommand is not None:
        return
    found = call(session(context).to_ask(), "route_list")
    show_json(found) if json else _show(found)


@app.command("test", cls=Command)
def try_prompt(context: typer.Context, prompt: str, json: Json = False) -> None:
    """Show where a prompt would go; nobody answers it."""
    found = call(session(context).to_ask(), "route_test", prompt=prompt)
    if json:
        show_json(found)
        return
    what = f"score {found['score']:.3f}, margin {found['margin']:.3f}, by {found['method']}"
    near = f"nearest is {found['route']}: " if found["route"] else ""
    how = f"abstained, {near}" if found["abstained"] else f"route {found['route']}: "
    show(f"{found['model']}   {how}{what}")
    if found["why"]:
        show(f"note: {found['why']}")


@app.command(cls=Command)
def add(
    context: typer.Context,
    name: str,
    model: Annotated[str, typer.Option(help="Who answers.", autocompletion=completion.any_model)],
    example: Annotated[list[str], typer.Option(help="A prompt of this kind; may be repeated.")],
) -> None:
    """Write a route into the configuration, in the place of one of that name."""
    config = session(context).to_ask()
    _show(call(config, "route_add", name=name, model=model, examples=example))


@app.command(cls=Command)
def remove(context: typer.Context, name: str) -> None:
    """Take a route out of the configuration."""
    _show(call(session(context).to_ask(), "route_remove", name=name))


def _show(found: dict[str, Any]) -> None:
    if not found["routes"]:
        show("No routes are configured: `--model auto` asks the default model.")
        return
    rows = [(r["name"], r["model"], r["examples"], r["held_out"]) for r in found["routes"]]
    show(table(HEAD, rows))
    if found["methods"]:
        show(table(METHODS, [tuple(way.values()) for way in found["methods"]]))
    show(f"what is like none goes to {found['default'] or 'the first model of this node'}")
