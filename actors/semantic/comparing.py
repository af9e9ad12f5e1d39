"""How alike a prompt is to each route.

By vectors, or by words where there is no model for embeddings.  Both are built from the examples
once and compare many prompts at a time.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from r3mes.actors.semantic.decision import Labels, Scores

NEAREST = 5
"""Examples of a route that count.  Leaving out each of 394 training examples of
``benchmarks.router`` in turn, 1, 2, 3, 5, 8, 16 found 85, 89, 90, 90, 90, 88 % of the routes."""
BLOCK = 256
WORD = re.compile(r"\w+")
RIDGE = 1.0
"""Weight that keeps the vote small; 0.3, 1 and 3 alone treated 84, 86 and 86 % rightly."""
SATURATION, LENGTH = 1.2, 0.75
"""BM25's k1 and b, at their usual values."""


Posting = tuple[NDArray[np.int64], NDArray[np.float64]]
NOWHERE: Posting = (np.zeros(0, np.int64), np.zeros(0))


class Comparer(Protocol):
    """Built from examples with their labels."""

    def among_themselves(self) -> Scores:
        """Scores of the examples, each compared with all others."""
        ...


def by_route(likeness: NDArray[np.floating], labels: Labels, routes: int) -> Scores:
    """Scores ``(prompts, routes + 1)`` from the likeness ``(prompts, examples)`` to each example.

    An example that must not count has the likeness -inf.
    """
    columns = []
    for label in range(routes + 1):
        mine = likeness[:, labels == label]
        nearest = -np.sort(-mine, axis=1)[:, :NEAREST]
        counts = np.isfinite(nearest)
        total = np.where(counts, nearest, 0.0).sum(axis=1)
        many = counts.sum(axis=1)
        columns.append(np.where(many > 0, total / np.maximum(many, 1), -np.inf))
    return np.stack(columns, axis=1)


def _leaving_out(
    likeness: Callable[[slice], NDArray[np.floating]], labels: Labels, routes: int
) -> Scores:
    """Scores of all examples, each without itself; by blocks, for thousands are many squared."""
    blocks = [np.zeros((0, routes + 1))]
    for start in range(0, len(labels), BLOCK):
        part = likeness(slice(start, start + BLOCK))
        rows = np.arange(len(part))
        part[rows, start + rows] = -np.inf
        blocks.append(by_route(part, labels, routes))
    return np.concatenate(blocks)


class Vectors:
    """Compares by vectors of length 1: the cosine to the nearest examples, and a linear vote.

    The vote is a ridge regression from vectors to routes, which has seen what sets a route apart
    from all others; the cosines know what is near.  Leaving out each of 394 training examples of
    ``benchmarks.router`` in turn, cosines alone treated 87 % rightly, the vote alone 86 %, both
    88 %; of the prompts for calibration 91, 91 and 93 %.

    Source: Hastie et al., "The elements of statistical learning", 3.4 (ridge) and 7.10 (leaving one
    out in closed form).
    """

    def __init__(self, vectors: NDArray[np.float32], labels: Labels, routes: int) -> None:
        self._vectors, self._labels, self._routes = vectors, labels, routes
        self._middle = vectors.mean(axis=0, dtype=np.float64)
        self._shares = np.bincount(labels, minlength=routes + 1) / len(labels)
        centred = vectors - self._middle
        gram = centred.T @ centred + RIDGE * np.eye(vectors.shape[1])
        self._spread = np.linalg.solve(gram, centred.T)
        self._slopes = self._spread @ (self._targets() - self._shares)

    def scores(self, vectors: NDArray[np.float32]) -> Scores:
        """Of prompts with these vectors."""
        nearest = by_route(vectors @ self._vectors.T, self._labels, self._routes)
        return nearest + self._vote(vectors)

    def among_themselves(self) -> Scores:
        def likeness(rows: slice) -> NDArray[np.floating]:
            return self._vectors[rows] @ self._vectors.T

        targets, own = self._targets(), self._vectors - self._middle
        leverage = (own * self._spread.T).sum(axis=1) + 1 / len(own)
        missed = (targets - self._vote(self._vectors)) / (1 - leverage)[:, None]
        scores: Scores = _leaving_out(likeness, self._labels, self._routes) + targets - missed
        return scores

    def _targets(self) -> Scores:
        targets: Scores = np.eye(self._routes + 1)[self._labels]
        return targets

    def _vote(self, vectors: NDArray[np.float32]) -> Scores:
        vote: Scores = (vectors - self._middle) @ self._slopes + self._shares
        return vote


class Words:
    """Compares by the words that prompt and example share, the rarer the more.

    Source: Robertson & Zaragoza 2009, BM25; divided by what the prompt has with itself, so that
    scores of long and short prompts compare.
    """

    def __init__(self, texts: Sequence[str], labels: Labels, routes: int) -> None:
        self._texts, self._labels, self._routes = texts, labels, routes
        bags = [_bag(text) for text in texts]
        lengths = np.array([sum(bag.values()) for bag in bags], float)
        mean = max(float(lengths.mean()), 1.0) if len(bags) else 1.0
        self._mean, self._many = mean, len(texts)
        self._norms = SATURATION * (1 - LENGTH + LENGTH * lengths / mean)
        having: dict[str, list[tuple[int, int]]] = {}
        for at, bag in enumerate(bags):
            for word, count in bag.items():
                having.setdefault(word, []).append((at, count))
        self._having = {
            word: self._posting(*zip(*pairs, strict=True)) for word, pairs in having.items()
        }
        """By word: the examples that have it, and what it is worth in each."""

    def scores(self, texts: Sequence[str]) -> Scores:
        """Of prompts with these texts."""
        return by_route(self._likeness(texts), self._labels, self._routes)

    def among_themselves(self) -> Scores:
        def likeness(rows: slice) -> NDArray[np.floating]:
            return self._likeness(self._texts[rows])

        return _leaving_out(likeness, self._labels, self._routes)

    def _likeness(self, texts: Sequence[str]) -> NDArray[np.float64]:
        likeness = np.zeros((len(texts), self._many))
        for row, text in enumerate(texts):
            bag = _bag(text)
            for word in self._having.keys() & bag.keys():
                examples, worth = self._having[word]
                likeness[row, examples] += worth
            norm = SATURATION * (1 - LENGTH + LENGTH * sum(bag.values()) / self._mean)
            own = sum(
                self._rarity(word) * count * (SATURATION + 1) / (count + norm)
                for word, count in bag.items()
            )
            likeness[row] /= max(own, 1e-9)
        return likeness

    def _posting(self, at: Sequence[int], counts: Sequence[int]) -> Posting:
        examples, many = np.array(at), np.array(counts, float)
        part = many * (SATURATION + 1) / (many + self._norms[examples])
        return examples, _rarity(len(examples), self._many) * part

    def _rarity(self, word: str) -> float:
        examples, _ = self._having.get(word, NOWHERE)
        return _rarity(len(examples), self._many)


def _rarity(having: int, many: int) -> float:
    return math.log(1 + (many - having + 0.5) / (having + 0.5))


def _bag(text: str) -> Counter[str]:
    return Counter(WORD.findall(text.lower()))
