"""``docs/cli.md``, made from the application itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from r3mes.errors import REGISTRY
from r3mes.node.cli.everywhere import OPTIONS
from r3mes.node.cli.root import app

HEAD = """\
# Command line

Made from `node/cli/` by `python -m r3mes.node.reference`.

Data goes to stdout and messages to stderr. Commands that read have `--json`. Nothing is coloured
when the output is no terminal or `NO_COLOR` is set. A failure is one line, `error ID: what. What to
do.`, and an exit status:

"""
STATUSES = {
    0: "it worked",
    1: "something else, such as a check of `doctor` that failed",
    2: "wrong usage, or a value that is not valid",
    64: "the node is older or newer than the command line",
    65: "what was given cannot be used",
    66: "what was named is not there",
    69: "the node, a peer, a model or systemd cannot be reached",
    70: "something failed that should not",
    73: "it exists already, and was left as it is",
    74: "the disk or the database",
    75: "not now: try again later",
    76: "a peer sent nonsense",
    77: "not allowed",
    78: "the configuration, or data of a newer version: a restart does not help",
}


def cli_page() -> str:
    """The whole page."""
    root: Any = typer.main.get_command(app)
    context = root.context_class(root, info_name="r3mes")
    rows = [*((f"{one.name} {one.metavar}".rstrip(), one.help) for one in OPTIONS),
            *_records(root, context)]  # fmt: skip
    everywhere = f"\n## Every command\n\n{_table('option', rows)}"
    return HEAD + _statuses() + everywhere + "".join(_commands(root, context))


def _statuses() -> str:
    used = {0, 1, 2, *(error.kind.exit for error in REGISTRY.values())}
    rows = [(str(status), STATUSES[status]) for status in sorted(used)]
    table = _table("status", rows, code=False)
    return table + "\nThe status of each error is in [errors.md](errors.md).\n"


def _commands(group: Any, context: Any) -> Iterator[str]:
    for name, command in group.commands.items():
        inner = command.context_class(command, info_name=name, parent=context)
        inside = hasattr(command, "commands")
        if not inside or command.invoke_without_command:
            yield _command(command, inner)
        if inside:
            yield from _commands(command, inner)


def _command(command: Any, inner: Any) -> str:
    usage = " ".join([inner.command_path, *command.collect_usage_pieces(inner)])
    records = [one for one in _records(command, inner) if "--help" not in one[0]]
    table = "\n" + _table("argument or option", records) if records else ""
    text = " ".join(str(command.callback.__doc__).split())
    return f"\n## `{inner.command_path}`\n\n{text}\n\n    {usage}\n{table}"


def _records(command: Any, context: Any) -> list[tuple[str, str]]:
    found = (one.get_help_record(context) for one in command.get_params(context))
    return [(str(name), str(text)) for name, text in filter(None, found)]


def _table(first: str, rows: list[tuple[str, str]], *, code: bool = True) -> str:
    lines = (f"| `{name}` | {text} |\n" if code else f"| {name} | {text} |\n"
             for name, text in rows)  # fmt: skip
    return f"| {first} | |\n|---|---|\n" + "".join(lines).replace("  ", " ")
