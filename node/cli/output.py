"""Output: data goes to stdout, messages to stderr; tables without colours or frames."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence

import typer


def say(text: str) -> None:
    """A message for people."""
    typer.echo(text, err=True)


def show(text: str) -> None:
    """What the command was asked for."""
    typer.echo(text)


def show_json(data: object) -> None:
    """The same for programs."""
    typer.echo(json.dumps(data, ensure_ascii=False, indent=2, default=str))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their widest cell."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(head))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def short(text: str, keep: int = 8) -> str:
    """A long id by its ends."""
    return text if len(text) <= 2 * keep + 1 else f"{text[:keep]}…{text[-keep:]}"


def harmless(text: str) -> str:
    """``text`` without what commands a terminal: it comes from a model, and may come from far."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def duration(seconds: float) -> str:
    """Such as ``2m58s``."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (whole % 60, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return "".join(f"{value}{unit}" for value, unit in parts[:2])


def remes(uremes: int) -> str:
    """An amount of base units in the coin's unit; an uremes is a millionth."""
    return f"{uremes / 1_000_000:.6f} REMES"


def size(count: float) -> str:
    """Such as ``412 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB" if count < 10 else f"{count:.0f} GiB"
