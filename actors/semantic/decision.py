"""From how alike a prompt is to each route, whether one of them takes it, or none.

``scores`` are arrays with a column for each route and a last one for the prompts of no route,
which compete like a route; without any the column is -inf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Scores: TypeAlias = NDArray[np.float64]
Labels: TypeAlias = NDArray[np.int64]
"""Of prompts: the index of their route, the number of routes for those of none."""
Method: TypeAlias = Literal["embedding", "keywords", "none"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When the router does not abstain.

    Args:
        score: prompt and route are more alike than this.
        margin: and by this, or more, more alike than prompt and the next best.
    """

    score: float
    margin: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What the router made of a prompt.

    Args:
        route: the one that is most like it; None if nothing was compared.
        score: how alike they are; the scale is that of the method.
        margin: how much more than the next best, another route or the prompts of none.
        abstained: nothing is like it enough, so the default model is asked.
        method: how they were compared.
        why: it was not as wished, such as the model for embeddings that does not answer.
    """

    route: str | None
    score: float
    margin: float
    abstained: bool
    method: Method
    why: str | None = None


def strongest(scores: Scores) -> tuple[Labels, Scores, Scores]:
    """The best route of each row, its score, and its margin over the next best column."""
    rows = np.arange(len(scores))
    best = scores[:, :-1].argmax(axis=1)
    top = scores[rows, best]
    rest = scores.copy()
    rest[rows, best] = -np.inf
    second = rest.max(axis=1)
    return best, top, np.where(np.isfinite(second), top - second, np.abs(top))
