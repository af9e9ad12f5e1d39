"""docs/first-ten-minutes.md shows what really happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemons.ten_minutes import PAGE, compared, play, steps_of


@pytest.mark.apart
@pytest.mark.slow
def test_the_page_shows_what_happens(tmp_path: Path) -> None:
    steps = steps_of(PAGE.read_text())
    assert len(steps) > 15
    for written, played in zip(steps, play(steps, tmp_path), strict=True):
        told = "record it anew: python -m tests.daemons.ten_minutes"
        assert compared(played.shown) == compared(written.shown), f"{written.command}: {told}"
