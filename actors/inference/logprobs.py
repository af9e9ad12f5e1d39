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
    top = logits.max()
    mass = float(np.log(np.exp(logits - top).sum(dtype=np.float64)))
    ids = np.array([token, *_highest(logits, count - 1)])
    values = logits[ids].astype(np.float64) - float(top) - mass
    pairs = np.full(count, np.array((0, LEAST), PAIR))  # for what a small vocabulary does not have
    pairs["id"][: len(ids)] = ids
    pairs["value"][: len(ids)] = np.clip(np.nan_to_num(values, nan=LEAST), LEAST, 0.0)
    return pairs.tobytes()


def _highest(logits: Logits, count: int) -> list[int]:
    if not count:
        return []
    count = min(count, len(logits))
    least = np.partition(logits, -count)[-count]
    among = np.flatnonzero(logits >= least)
    order = np.argsort(-logits[among], kind="stable")
    return [int(one) for one in among[order][:count]]
