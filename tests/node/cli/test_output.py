"""How amounts are written for people."""

from __future__ import annotations

import pytest

from r3mes.node.cli.output import size


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (2048, "2 KiB"), (1536 << 20, "1.5 GiB"), (62 << 30, "62 GiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
