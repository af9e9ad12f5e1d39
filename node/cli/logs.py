"""`r3mes logs`: the last lines of the running node, wherever its stderr goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any

import msgspec
import typer

from r3mes.config.schema import Config
from r3mes.errors import NodeNotRunning
from r3mes.node.cli.api import call
from r3mes.node.cli.output import say, show, show_json
from r3mes.node.cli.session import session

LOOK_EVERY_S = 0.5
KEPT = 2000
"""Lines that the node remembers."""


def logs(
    context: typer.Context,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many.", min=1, max=KEPT)] = 50,
    level: Annotated[
        str, typer.Option(help="Least severity: debug, info, warning or error.")
    ] = "debug",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show the last lines of the running node's log."""
    config = session(context).to_ask()
    found = _lines(config, lines=lines, level=level)
    if json and not follow:
        show_json(found)
        return
    if found and found[0]["number"] > 1 and len(found) < lines:
        say("Older lines are where the node's stderr goes; under systemd: journalctl -u r3mes")
    with suppress(KeyboardInterrupt):
        for line in _on_and_on(config, level, found) if follow else found:
            show(msgspec.json.encode(line).decode() if json else _text(line))


def _on_and_on(config: Config, level: str, found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """``found``, and then what comes; ends with Ctrl-C."""
    last = 0
    while True:
        yield from found
        last = max((line["number"] for line in found), default=last)
        time.sleep(LOOK_EVERY_S)
        found = _lines(config, lines=KEPT, level=level, after=last)


def _lines(config: Config, *, lines: int, level: str, after: int = 0) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = call(
            config, "diag_logs", lines=lines, level=level, after=after
        )
    except NodeNotRunning as error:
        do = "see its last words where its stderr went; under systemd: journalctl -u r3mes"
        raise NodeNotRunning(error.detail, do=do) from error
    return found


def _text(line: Mapping[str, Any]) -> str:
    """As the node writes it to stderr."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(line["at_ms"] / 1000))
    head = f"{at} {line['level']} {line['logger']}: {line['message']}"
    return "\n".join([head, *line["trace"].splitlines()])
