"""From likeness to a decision: comparison, thresholds from prompts not seen, abstention."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r3mes.actors.semantic.calibration import calibrate
from r3mes.actors.semantic.comparing import NEAREST, Vectors, Words, by_route
from r3mes.actors.semantic.decision import strongest

INF = float("inf")


def test_the_margin_is_over_the_next_best_which_may_be_the_prompts_of_no_route() -> None:
    scores = np.array([[0.9, 0.5, 0.7], [0.2, 0.6, -INF], [0.1, 0.2, 0.8]])
    best, top, margin = strongest(scores)
    assert best.tolist() == [0, 1, 1]
    assert top.tolist() == [0.9, 0.6, 0.2]
    assert margin == pytest.approx([0.2, 0.4, -0.6])


def test_a_single_route_without_others_has_a_margin_all_the_same() -> None:
    _, _, margin = strongest(np.array([[0.4, -INF]]))
    assert margin.tolist() == [0.4]


def test_the_nearest_examples_count_and_those_left_out_do_not() -> None:
    likeness = np.array([[1.0, 0.5, -INF, *[0.1] * NEAREST]])
    scores = by_route(likeness, np.array([0, 0, 1, *[2] * NEAREST]), 2)
    assert scores[0] == pytest.approx([0.75, -INF, 0.1])


def test_leaving_one_out_is_the_same_as_building_without_it() -> None:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(40, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.arange(40) % 4
    closed = Vectors(vectors, labels, 3).among_themselves()
    for at in (0, 17, 39):
        rest = np.arange(40) != at
        without = Vectors(vectors[rest], labels[rest], 3)
        assert without.scores(vectors[at : at + 1])[0] == pytest.approx(closed[at], abs=1e-5)


def test_words_find_what_shares_rare_ones() -> None:
    texts = ["how do I boil an egg", "how do I fly to Rome", "an egg recipe", "a flight to Rome"]
    words = Words(texts, np.array([0, 1, 0, 1]), 2)
    best, top, _ = strongest(words.scores(["EGG?", "rome please", "qwerty"]))
    assert best[:2].tolist() == [0, 1]
    assert top[2] == 0.0
    assert strongest(words.scores(["", "..."]))[1].tolist() == [0.0, 0.0]


def test_words_weigh_as_bm25_does() -> None:
    words = Words(["egg egg rome", "rome fly"], np.array([0, 1]), 1)
    norms = [1.2 * (0.25 + 0.75 * length / 2.5) for length in (3, 2)]
    egg, rome = math.log(1 + 1.5 / 1.5), math.log(1 + 0.5 / 2.5)
    one = egg * 2 * 2.2 / (2 + norms[0]) + rome * 2.2 / (1 + norms[0])
    two, own = rome * 2.2 / (1 + norms[1]), (egg + rome) * 2.2 / (1 + norms[1])
    assert words.scores(["Egg, Rome"])[0] == pytest.approx([one / own, two / own])


def test_thresholds_part_what_can_be_parted() -> None:
    scores = np.array([[0.9, 0.1, 0.2]] * 30 + [[0.1, 0.8, 0.3]] * 30 + [[0.4, 0.3, 0.35]] * 30)
    labels = np.array([0] * 30 + [1] * 30 + [2] * 30)
    found = calibrate(scores, labels, 0.05)
    assert (found.right, found.abstained, found.wrong) == (90, 30, 0)


@pytest.mark.parametrize("score", [0.9, 0.0, -0.5])
def test_without_hope_the_router_abstains(score: float) -> None:
    scores = np.array([[score, -1.0, -2.0]] * 20)
    found = calibrate(scores, np.array([1] * 20), 0.05)
    assert (found.abstained, found.wrong) == (20, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.floats(0, 1))
def test_no_more_prompts_go_wrong_than_allowed(seed: int, many: int, most_wrong: float) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=(many, 4)), rng.integers(0, 4, many)
    found = calibrate(scores, labels, most_wrong)
    assert found.wrong == 0 or (found.wrong + 1) / (many + 1) <= most_wrong
    best, top, margin = strongest(scores)
    taken = (top > found.thresholds.score) & (margin >= found.thresholds.margin)
    assert found.wrong == (taken & (best != labels)).sum()
    assert found.abstained == (~taken).sum()
    assert found.prompts == many
