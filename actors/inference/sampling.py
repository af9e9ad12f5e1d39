"""Choosing the next token: a pure function of (seed, position, logits, tokens so far).

No generator state survives a token, so another server that is given the seed and the tokens
written so far goes on exactly as this one would have.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x64-10, as
numpy implements it); Holtzman et al. 2020 (top-p); Nguyen et al. 2024 (min-p); Keskar et al. 2019
(repetition penalty); OpenAI API reference (the other two penalties).  Order and what counts as a
repetition are vLLM's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
HEAD = 1024
"""Most probable tokens that are sorted first, to find those of top_p."""
BLOCK = 256
"""Weights that are added up together."""
COLDEST = 1e-30
"""Temperatures below are as good as this one, and too small for numbers of 32 bits."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Args:
        temperature: 0 takes the most probable token; ties go to the lower id.
        top_k: only the k most probable; 0 for all.
        top_p: only the most probable ones that reach this mass together; 1 for all.
        seed: 0 … 2^64-1, the key of the random numbers.
        min_p: only those at least so probable in proportion to the most probable; 0 for all.
        presence_penalty: taken from the logit of each token that the answer has.
        frequency_penalty: the same, once for each time that the answer has it.
        repetition_penalty: over 0; divides positive and multiplies negative logits of each token
            that prompt or answer has.
        bias: added to the logits of these tokens.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    bias: tuple[tuple[int, float], ...] = ()

    @property
    def adjusts(self) -> bool:
        """Whether anything but the logits counts: `adjusted` changes nothing otherwise."""
        return (
            bool(self.bias)
            or self.repetition_penalty != 1
            or bool(self.presence_penalty or self.frequency_penalty)
        )


class Tally:
    """Which tokens prompt and answer have, and how often the answer has them."""

    def __init__(self, prompt: Iterable[int], answer: Iterable[int]) -> None:
        self._answer = Counter(answer)
        self._seen = {*prompt, *self._answer}

    def add(self, token: int) -> None:
        """The answer goes on with ``token``."""
        self._answer[token] += 1
        self._seen.add(token)

    def seen(self) -> NDArray[np.intp]:
        """The tokens of prompt and answer."""
        return np.fromiter(self._seen, np.intp, len(self._seen))

    def counts(self) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The tokens of the answer, and how often each is there."""
        size = len(self._answer)
        ids = np.fromiter(self._answer.keys(), np.intp, size)
        return ids, np.fromiter(self._answer.values(), np.float64, size)


def adjusted(sampling: Sampling, logits: Logits, tally: Tally) -> Logits:
    """The logits with bias and penalties; those that were given stay as they are."""
    logits = logits.copy()
    for token, bias in sampling.bias:
        logits[token] += np.float32(bias)
    if (factor := sampling.repetition_penalty) != 1:
        seen = tally.seen()
        before = logits[seen].astype(np.float64)
        logits[seen] = np.where(before > 0, before / factor, before * factor)
    if sampling.presence_penalty or sampling.frequency_penalty:
        ids, counts = tally.counts()
        logits[ids] -= sampling.frequency_penalty * counts + sampling.presence_penalty
    return logits


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
    temperature = np.float32(min(max(sampling.temperature, COLDEST), 1 / COLDEST))
    with np.errstate(over="ignore"):  # a tiny temperature: all but the highest become 0
        weights = kept - np.float32(top)
        weights /= temperature
        np.exp(weights, out=weights)  # in place: fresh memory costs more than the numbers
    if sampling.min_p > 0:
        weights[weights < sampling.min_p * weights.max()] = 0
    if sampling.top_p < 1:
        weights[~_top_p(sampling.top_p, weights)] = 0
    chosen = _drawn(weights, uniform(sampling.seed, position))
    return chosen if ids is None else int(ids[chosen])


def _drawn(weights: Logits, share: float) -> int:
    """Where the mass of the weights, added up from the first, goes beyond a share of it.

    Blocks are added up first: one sum after the other over a whole vocabulary takes a millisecond.
    """
    blocks = np.add.reduceat(weights, range(0, len(weights), BLOCK), dtype=np.float64)
    before = np.cumsum(blocks)
    wanted = share * before[-1]
    block = min(int(np.searchsorted(before, wanted, side="right")), len(blocks) - 1)
    begin = block * BLOCK
    inside = np.cumsum(weights[begin : begin + BLOCK], dtype=np.float64)
    passed = before[block] - blocks[block]
    chosen = begin + int(np.searchsorted(inside, wanted - passed, side="right"))
    if chosen < min(begin + BLOCK, len(weights)) and weights[chosen] > 0:
        return chosen
    # Sums that are rounded otherwise end a little sooner: the last that has any weight.
    return int(np.flatnonzero(weights[: begin + BLOCK])[-1])


def _top_k(top_k: int, logits: Logits) -> tuple[NDArray[np.intp] | None, Logits]:
    """The ``top_k`` highest logits (0: all) and their ids, by rising id; ties to the lower id.

    For all of them the ids are None: each is its place.
    """
    if not 0 < top_k < len(logits):
        return None, logits
    threshold = np.partition(logits, -top_k)[-top_k]
    above, equal = np.flatnonzero(logits > threshold), np.flatnonzero(logits == threshold)
    ids = np.sort(np.concatenate((above, equal[: top_k - len(above)])))
    return ids, logits[ids]


def _top_p(top_p: float, weights: Logits) -> NDArray[np.bool_]:
    """Which of ``weights`` are the fewest that reach the share ``top_p``; ties to the first."""
    wanted = top_p * weights.sum(dtype=np.float64)
    size = min(len(weights), HEAD)
    while True:  # a sort of 150 000 entries takes 10 ms, and a few hundred nearly always do
        whole = size == len(weights)
        head = np.sort(weights if whole else np.partition(weights, -size)[-size:])[::-1]
        reached = int(np.searchsorted(np.cumsum(head, dtype=np.float64), wanted))
        if reached < size or whole:
            break
        size = len(weights)
    least = head[min(reached, size - 1)]
    chosen: NDArray[np.bool_] = weights > least
    room = min(reached, size - 1) + 1 - int(chosen.sum())
    chosen[np.flatnonzero(weights == least)[:room]] = True
    return chosen
