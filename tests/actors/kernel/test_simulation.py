"""A small run of the seeded simulation; ``python -m benchmarks.kernel`` does the large one."""

from __future__ import annotations

import pytest

from benchmarks.simulation import simulate


@pytest.mark.parametrize("seed", [1001, 1002, 1003])
def test_nobody_is_answered_late_and_nothing_hangs(seed: int) -> None:
    outcome = simulate(seed, seconds=300)
    assert (outcome.late, outcome.hangs) == (0, 0)
    assert outcome.answered > 1000
    assert outcome.restarts > 50


def test_same_seed_same_log() -> None:
    first, again, other = (simulate(seed, seconds=60).log_hash for seed in (7, 7, 8))
    assert first == again
    assert first != other
