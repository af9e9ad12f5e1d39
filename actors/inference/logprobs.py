"""Log-probabilities, computed in the worker from the model's own logits.

They are those of the model, before bias, penalties, temperature and grammar, as vLLM tells them.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from r3mes.actors.inference.sampling import Logits
from r3mes.actors.requests.logprobs import LEAST

PAIR: Final = np.dtype([("id", "<u4"), ("value", "<f4")])
"""What the worker tells of one token, so packed that those of several tokens just follow."""


def pairs_of(logits: Logits, token: int, count: int) -> bytes:
    """The pair of ``token``, then those of the most probable; ``count`` in all.

    Args:
        logits: of the whole vocabulary, shape (vocabulary,), float32.
        token: the one that was chosen.
        count: at least 1; ties go to the lower id.
    """
    exact = logits.astype(np.float64)
    top = exact.max()
    values = exact - (top + np.log(np.exp(exact - top).sum()))
    ids = np.array([token, *_highest(exact, count - 1)])
    pairs = np.full(count, np.array((0, LEAST), PAIR))  # for what a small vocabulary does not have
    pairs["id"][: len(ids)] = ids
    pairs["value"][: len(ids)] = np.clip(np.nan_to_num(values[ids], nan=LEAST), LEAST, 0.0)
    return pairs.tobytes()


def _highest(logits: np.ndarray[tuple[int], np.dtype[np.float64]], count: int) -> list[int]:
    if not count:
        return []
    count = min(count, len(logits))
    least = np.partition(logits, -count)[-count]
    among = np.flatnonzero(logits >= least)
    order = np.argsort(-logits[among], kind="stable")
    return [int(one) for one in among[order][:count]]
