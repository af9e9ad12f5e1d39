"""`r3mes demo`: three nodes on this machine and one question, from end to end."""

from __future__ import annotations

import typer


def demo() -> None:
    """Run three nodes here, and ask one of them."""
    from r3mes.node.demo import main

    raise typer.Exit(main())
