"""What was acknowledged to clients, and whether a node still has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from benchmarks.daemons import Daemon
from r3mes.actors.ledger import GATEWAY, SERVER, read_receipt
from r3mes.actors.store import DATABASE, open_readonly
from r3mes.ids import RequestHash


def chat(model: str, max_tokens: int) -> dict[str, Any]:
    """The body of a small request."""
    question = [{"role": "user", "content": "What is a receipt?"}]
    return {"model": model, "messages": question, "max_tokens": max_tokens, "temperature": 0}


def ask(daemon: Daemon, model: str = "builtin", max_tokens: int = 2) -> httpx.Response:
    """Ask over HTTP, once, without the retries of an SDK."""
    return httpx.post(
        f"{daemon.url}/v1/chat/completions",
        headers=daemon.headers,
        json=chat(model, max_tokens),
        timeout=60,
    )


def receipt_id(answer: Mapping[str, Any]) -> str:
    """The receipt that an answer names."""
    found: str = answer["r3mes"]["receipt_id"]
    return found


def lost(folder: Path, receipts: Iterable[str]) -> int:
    """How many of ``receipts`` the database in ``folder`` lacks, on either side of the answer."""
    with closing(open_readonly(folder / DATABASE)) as connection:
        return sum(
            read_receipt(connection, RequestHash(bytes.fromhex(name)), role) is None
            for name in receipts
            for role in (GATEWAY, SERVER)
        )
