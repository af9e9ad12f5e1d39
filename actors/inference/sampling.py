"""Choosing the next token: a pure function of (seed, position, logits).

No generator state survives a token, so another server that is given the seed and the tokens
written so far goes on exactly as this one would have.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x64-10, as
numpy implements it); Holtzman et al. 2020 (top-p).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


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
    if sampling.temperature <= 0:
        return int(np.argmax(logits))  # the first, that is the lowest id, of equals
    order = _most_probable(logits, sampling.top_k)
    scaled = logits[order].astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled[0])
    mass = np.cumsum(weights)
    last = len(mass) - 1
    if sampling.top_p < 1:
        last = min(last, int(np.searchsorted(mass, sampling.top_p * mass[-1])))
    draw = uniform(sampling.seed, position) * mass[last]
    chosen = int(np.searchsorted(mass[: last + 1], draw, side="right"))
    return int(order[min(chosen, last)])


def _most_probable(logits: Logits, top_k: int) -> NDArray[np.intp]:
    """Ids by falling logit, ties by rising id; the first ``top_k`` (0: all)."""
    if 0 < top_k < len(logits):
        # Everything at least as probable as the k-th, so that the sort alone decides ties.
        threshold = np.partition(logits, len(logits) - top_k)[len(logits) - top_k]
        candidates = np.flatnonzero(logits >= threshold)
        return candidates[np.argsort(-logits[candidates], kind="stable")][:top_k]
    return np.argsort(-logits, kind="stable")
