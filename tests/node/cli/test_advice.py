"""The one thing to do: what stops the node comes before what can wait."""

from __future__ import annotations

from typing import Any

import pytest

from r3mes.node.cli.advice import advise

FINE: dict[str, Any] = {
    "ready": True,
    "reasons": [],
    "models": [{"name": "m", "state": "ready", "why": None}],
    "wallet": {"backed_up": True},
    "last_backup_at": 1.0,
}
FAILED = {"name": "m", "state": "failed", "why": "no file"}
UNLOADED = {"name": "m", "state": "unloaded", "why": None}
UNSAFE = {"wallet": {"backed_up": False}, "last_backup_at": None}


def test_nothing_to_do() -> None:
    assert advise(FINE) is None


@pytest.mark.parametrize(
    ("change", "do"),
    [
        ({"last_backup_at": None}, "r3mes backup create"),
        (UNSAFE, "r3mes wallet backup"),
        ({**UNSAFE, "ready": False, "reasons": ["the disk is full"]}, "r3mes logs"),
        ({**UNSAFE, "models": [FAILED]}, "r3mes doctor"),
        ({"ready": False, "reasons": ["no peer"], "models": []}, "serve a model"),
        ({"ready": False, "reasons": ["m"], "models": [UNLOADED]}, "r3mes models load m"),
        ({**UNSAFE, "models": [FINE["models"][0], UNLOADED]}, "r3mes wallet backup"),
        ({"models": [FAILED], "reasons": ["the node is stopping"]}, "wait"),
    ],
)
def test_the_most_pressing_thing(change: dict[str, Any], do: str) -> None:
    advice = advise(FINE | change)
    assert advice is not None
    assert do in advice.do
