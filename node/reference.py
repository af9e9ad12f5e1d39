"""Reference pages that are made from the code: ``python -m r3mes.node.reference`` rewrites them."""

from __future__ import annotations

from pathlib import Path

from r3mes.config.reference import config_page
from r3mes.errors import REGISTRY
from r3mes.node.cli.reference import cli_page
from r3mes.node.metrics.reference import metrics_page
from r3mes.node.rpc.reference import rpc_page

DOCS = Path(__file__).resolve().parent.parent / "docs"


def errors_page() -> str:
    """``docs/errors.md``: every error and what each surface makes of it."""
    head = (
        "# Errors\n\n"
        "Made from `src/r3mes/errors.py` by `python -m r3mes.node.reference`. Every surface shows\n"
        "the same error: the id to people, the code to programs, and its status or exit code.\n\n"
        "| id | code | HTTP | JSON-RPC | exit | what happened | what to do |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    kinds = sorted((error.kind for error in REGISTRY.values()), key=lambda kind: kind.id)
    return head + "".join(
        f"| {k.id} | `{k.code}` | {k.http} | {k.rpc} | {k.exit} | {k.what} | {k.do} |\n"
        for k in kinds
    )


def main() -> None:
    """Rewrite the pages in the checkout."""
    (DOCS / "errors.md").write_text(errors_page())
    (DOCS / "config.md").write_text(config_page())
    (DOCS / "cli.md").write_text(cli_page())
    (DOCS / "metrics.md").write_text(metrics_page())
    (DOCS / "rpc.md").write_text(rpc_page())


if __name__ == "__main__":
    main()
