"""The thresholds of abstention, computed from prompts that the router has not seen.

Of all pairs of thresholds under which at most ``most_wrong`` of the prompts would go to a wrong
route, the one that treats the most prompts rightly: those of a route by going to it, those of none
by abstaining.  Nothing is random, so the same prompts give the same thresholds.

Source: Angelopoulos et al. 2022, "Conformal risk control": with the loss "went to a wrong route",
(wrong + 1) / (n + 1) bounds the risk of the next prompt.  Left out: they move one threshold; with
two the bound is a guide, and the figures of prompts set aside say what it came to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from r3mes.actors.semantic.decision import Labels, Scores, Thresholds, strongest

STEPS = 49
"""Values tried of each threshold, at equal shares of the prompts."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Thresholds and what they come to on the prompts that they were computed from."""

    thresholds: Thresholds
    prompts: int
    right: int
    abstained: int
    wrong: int


def calibrate(scores: Scores, labels: Labels, most_wrong: float) -> Calibration:
    """The best thresholds for these prompts.

    Args:
        scores: of prompts that are not among the examples.
        labels: where they belong.
        most_wrong: the share that may go to a wrong route.
    """
    best, top, margin = strongest(scores)
    hit, outside = best == labels, labels == scores.shape[1] - 1
    tops, margins = _values(top), _values(margin)
    taken = (top > tops[:, None])[:, None, :] & (margin >= margins[:, None])[None, :, :]
    right = (np.where(taken, hit, outside)).sum(axis=2)
    wrong = (taken & ~hit).sum(axis=2)
    allowed = (wrong + 1) / (len(labels) + 1) <= most_wrong
    if not allowed.any():
        allowed = wrong == wrong.min()
    at = np.unravel_index(np.where(allowed, right, -1).argmax(), right.shape)
    thresholds = Thresholds(float(tops[at[0]]), float(margins[at[1]]))
    return Calibration(
        thresholds,
        prompts=len(labels),
        right=int(right[at]),
        abstained=int((~taken[at]).sum()),
        wrong=int(wrong[at]),
    )


def _values(found: Scores) -> Scores:
    """What to try: 0, under which nothing is alike; between two neighbours; above all of them."""
    ordered = np.unique(found[found > 0])
    between = (ordered[1:] + ordered[:-1]) / 2
    if len(between) > STEPS:
        between = between[np.linspace(0, len(between) - 1, STEPS).astype(int)]
    values: Scores = np.concatenate([[0.0], between, ordered[-1:] + 1.0])
    return values
