"""Sampling: the promises of temperature, top-k and top-p, and that seed and position decide."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from r3mes.actors.inference.sampling import Sampling, sample, uniform

LOGITS = np.array([0.0, 2.0, 1.0, 2.0, -1.0], dtype=np.float32)


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    assert sample(Sampling(temperature=0), 0, LOGITS) == 1


def test_top_k_keeps_the_lowest_id_of_equals() -> None:
    drawn = {sample(Sampling(1.0, top_k=1, seed=seed), 0, LOGITS) for seed in range(50)}
    assert drawn == {1}


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    # Probabilities: 0.055, 0.407, 0.150, 0.407, 0.020.
    for share, expected in ((0.3, {1}), (0.5, {1, 3}), (0.9, {1, 2, 3}), (1.0, {0, 1, 2, 3, 4})):
        drawn = {sample(Sampling(1.0, top_p=share, seed=seed), 0, LOGITS) for seed in range(400)}
        assert drawn == expected, share


def test_frequencies_are_those_of_the_softmax() -> None:
    drawn = [sample(Sampling(0.7, seed=3), position, LOGITS) for position in range(20_000)]
    wanted = np.exp(LOGITS / 0.7) / np.exp(LOGITS / 0.7).sum()
    assert np.bincount(drawn) / 20_000 == pytest.approx(wanted, abs=0.015)


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1.0, 1e308])
@pytest.mark.parametrize("top_p", [0.001, 1.0])
@pytest.mark.parametrize("odd", [[np.nan, 1.0], [np.inf, 1.0], [-np.inf, 1.0], [-np.inf] * 2])
def test_strange_numbers_give_a_token(temperature: float, top_p: float, odd: list[float]) -> None:
    sampling = Sampling(temperature, top_p=top_p, seed=1)
    assert sample(sampling, 0, np.array(odd * 3, dtype=np.float32)) in range(6)


def test_the_random_number_belongs_to_seed_and_position() -> None:
    """Fixed values: another node, years later, must draw the same."""
    assert uniform(0, 0) == 0.011546754286331562
    assert uniform(2**63 - 1, 12_345) == 0.9883605574103406


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=3000),
    st.floats(0.05, 5),
    st.integers(0, 40),
    st.floats(0.01, 1),
    st.integers(0, 2**63 - 1),
)
@example([-1.401298464324817e-45, 0.0], 1.0, 0, 0.25, 0)
def test_always_a_kept_token_and_the_same_again(
    values: list[float], temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    logits = np.array(values, dtype=np.float32)
    sampling = Sampling(temperature, top_k, top_p, seed)
    token = sample(sampling, 7, logits)
    assert token == sample(sampling, 7, logits)
    kept = np.sort(np.argsort(-logits, kind="stable")[: top_k or None])
    assert token in kept
    weights = np.exp((logits[kept].astype(np.float64) - logits.max()) / temperature)
    # By weight, not by logit: those of two logits can be equal, and then the lower id comes first.
    order = np.argsort(-weights, kind="stable")
    rank = int(np.flatnonzero(kept[order] == token)[0])
    if top_p < 1:
        assert weights[order[:rank]].sum() <= top_p * weights.sum() * (1 + 1e-9)
