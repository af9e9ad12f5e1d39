"""Sampling: the promises of temperature, top-k and top-p, and that seed and position decide."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from r3mes.actors.inference.sampling import Logits, Sampling, Tally, adjusted, sample, uniform

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


def adjust(logits: list[float], sampling: Sampling, prompt: list[int], answer: list[int]) -> Logits:
    return adjusted(sampling, np.array(logits, np.float32), Tally(prompt, answer))


def test_min_p_keeps_what_is_probable_in_proportion_to_the_most_probable() -> None:
    # Probabilities: 0.055, 0.407, 0.150, 0.407, 0.020.
    for share, expected in ((0.99, {1, 3}), (0.3, {1, 2, 3}), (0.1, {0, 1, 2, 3})):
        drawn = {sample(Sampling(1.0, min_p=share, seed=seed), 0, LOGITS) for seed in range(400)}
        assert drawn == expected, share


def test_presence_counts_once_and_frequency_each_time_and_only_in_the_answer() -> None:
    presence = adjust([1, 1, 1, 1], Sampling(presence_penalty=0.5), [0], [1, 2, 2])
    assert presence.tolist() == [1, 0.5, 0.5, 1]
    frequency = adjust([1, 1, 1, 1], Sampling(frequency_penalty=0.5), [0], [1, 2, 2])
    assert frequency.tolist() == [1, 0.5, 0, 1]
    both = Sampling(presence_penalty=-1, frequency_penalty=0.5)
    assert adjust([1, 1, 1, 1], both, [0], [1, 2, 2]).tolist() == [1, 1.5, 1, 1]


def test_repetition_counts_the_prompt_and_makes_every_logit_smaller() -> None:
    out = adjust([4, -4, 4, 4], Sampling(repetition_penalty=2.0), [0, 1], [2, 2])
    assert out.tolist() == [2, -8, 2, 4]


def test_bias_is_added_and_the_given_logits_stay() -> None:
    given = np.zeros(3, np.float32)
    out = adjusted(Sampling(bias=((0, -100.0), (2, 1.5))), given, Tally([], []))
    assert out.tolist() == [-100, 0, 1.5]
    assert given.tolist() == [0, 0, 0]


def test_a_tally_that_grows_is_the_tally_of_the_whole() -> None:
    sampling = Sampling(presence_penalty=0.3, frequency_penalty=0.7, repetition_penalty=1.3)
    logits = np.linspace(-3, 3, 50, dtype=np.float32)
    prompt, answer = [1, 2, 40], [5, 40, 5, 7, 5]
    growing = Tally(prompt, answer[:2])
    for token in answer[2:]:
        growing.add(token)
    whole = adjusted(sampling, logits, Tally(prompt, answer))
    assert adjusted(sampling, logits, growing).tobytes() == whole.tobytes()


def test_a_plain_request_adjusts_nothing() -> None:
    assert not Sampling(0.7, 5, 0.9, 3, min_p=0.1).adjusts
    assert Sampling(bias=((1, 1.0),)).adjusts
    assert Sampling(frequency_penalty=-1).adjusts
