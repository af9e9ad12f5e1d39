"""JSON-RPC under hypothesis: whatever is sent, the answer is one that the documentation names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.conftest import CASES
from tests.fuzz.messages import bodies, check_answer, same

if TYPE_CHECKING:
    from tests.fuzz.conftest import Node

pytestmark = pytest.mark.slow

PARTS = 4
"""For as many processes; each has cases of its own."""


@pytest.mark.parametrize("part", range(PARTS))
def test_every_answer_is_documented(node: Node, part: int) -> None:
    @seed(part)
    @given(bodies())
    @settings(
        max_examples=CASES // PARTS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def send(body: bytes) -> None:
        status, told = node.post(body)
        assert status in (200, 204)
        assert bool(told) == (status == 200)
        if not told:
            return
        answer = json.loads(told)
        try:
            sent = json.loads(body)
        except (ValueError, RecursionError):
            sent = None
        if isinstance(answer, list):
            for one in answer:
                check_answer(one, [entry for entry in sent if same(entry, one)] or sent)
        else:
            check_answer(answer, [sent])

    send()
    node.call("node_resume")
    node.is_unharmed()
