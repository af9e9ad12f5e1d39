"""Choosing the next token: a pure function of (seed, position, logits).

No generator state survives a token, so another server that is given the seed and the tokens
written so far goes on exactly as this one would have.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x64-10, as
numpy implements it); Holtzman et al. 2020 (top-p).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
HEAD = 1024
"""Most probable tokens that are sorted first, to find those of top_p."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Args:
        temperature: 0 takes the most probable token; ties go to the lower id.
        top_k: only the k most probable; 0 for all.
        top_p: only the most probable ones that reach this mass together; 1 for all.
        seed: 0 … 2^64-1, the key of the random numbers.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) that belongs to ``position``: Philox with it as counter."""
    raw = np.random.Philox(key=seed, counter=[0, position, 0, 0]).random_raw()
    return int(raw >> 11) * 2.0**-53


def sample(sampling: Sampling, position: int, logits: Logits) -> int:
    """The token at a position.

    Args:
        sampling: how to choose.
        position: in the answer; 0 is the first after the prompt.
        logits: of the whole vocabulary, shape (vocabulary,), float32.
    """
    top = float(logits.max())
    if sampling.temperature <= 0 or not math.isfinite(top):  # nonsense in, nonsense out, no crash
        return int(np.argmax(logits))  # the first, that is the lowest id, of equals
    ids, kept = _top_k(sampling.top_k, logits)
    with np.errstate(over="ignore"):  # a tiny temperature: all but the highest become 0
        weights = np.exp((kept.astype(np.float64) - top) / sampling.temperature)
    if sampling.top_p < 1:
        weights[~_top_p(sampling.top_p, weights)] = 0
    mass = np.cumsum(weights)
    chosen = np.searchsorted(mass, uniform(sampling.seed, position) * mass[-1], side="right")
    # A draw of all but 1 may round up to the whole mass: the last that has any.
    return int(ids[min(int(chosen), int(np.flatnonzero(weights)[-1]))])


def _top_k(top_k: int, logits: Logits) -> tuple[NDArray[np.intp], Logits]:
    """The ``top_k`` highest logits (0: all) and their ids, by rising id; ties to the lower id."""
    if not 0 < top_k < len(logits):
        return np.arange(len(logits)), logits
    threshold = np.partition(logits, -top_k)[-top_k]
    above, equal = np.flatnonzero(logits > threshold), np.flatnonzero(logits == threshold)
    ids = np.sort(np.concatenate((above, equal[: top_k - len(above)])))
    return ids, logits[ids]


def _top_p(top_p: float, weights: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of ``weights`` are the fewest that reach the share ``top_p``; ties to the first."""
    wanted = top_p * weights.sum()
    size = min(len(weights), HEAD)
    while True:  # a sort of 150 000 entries takes 10 ms, and a few hundred nearly always do
        head = np.sort(np.partition(weights, -size)[-size:])[::-1]
        reached = int(np.searchsorted(np.cumsum(head), wanted))
        if reached < size or size == len(weights):
            break
        size = len(weights)
    least = head[min(reached, size - 1)]
    chosen: NDArray[np.bool_] = weights > least
    room = min(reached, size - 1) + 1 - int(chosen.sum())
    chosen[np.flatnonzero(weights == least)[:room]] = True
    return chosen
