"""An answer goes on as it would have gone on elsewhere, whatever decides about its tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from r3mes.actors.inference.answer import Answer
from r3mes.actors.inference.engine import Job
from r3mes.actors.inference.logprobs import PAIR
from r3mes.actors.inference.sampling import Logits, Sampling

JOB = Job(1, (3, 4), (), Sampling(temperature=0.8, seed=5), 20, frozenset({0}))
ADJUSTED = Sampling(
    temperature=0.8,
    seed=5,
    min_p=0.02,
    presence_penalty=0.4,
    frequency_penalty=0.6,
    repetition_penalty=1.2,
    bias=((7, 1.0), (0, -100.0)),
)


def logits(position: int) -> Logits:
    rng = np.random.default_rng(position)
    return rng.normal(0, 2, 60).astype(np.float32)


def write(job: Job) -> tuple[list[int], bytes]:
    """All tokens of a job, and their log-probabilities."""
    answer, ids, logprobs = Answer(job), list[int](), b""
    while True:
        event = answer.choose(logits(answer.position))
        ids += event.ids
        logprobs += event.logprobs
        if event.ended:
            return ids, logprobs


@pytest.mark.parametrize("sampling", [JOB.sampling, ADJUSTED, replace(ADJUSTED, temperature=0)])
def test_a_continuation_is_the_rest_of_the_whole(sampling: Sampling) -> None:
    whole = replace(JOB, sampling=sampling, logprobs=3)
    ids, logprobs = write(whole)
    assert len(ids) > 8
    for cut in (1, 5, 8):
        rest = replace(whole, emitted=tuple(ids[:cut]), max_new=20 - cut)
        assert write(rest) == (ids[cut:], logprobs[3 * PAIR.itemsize * cut :])


def test_penalties_are_of_this_answer() -> None:
    """A constant favourite is written once, then it costs too much."""
    favourite = np.array([0, 3, 2.5, 2, 1], np.float32)
    answer = Answer(replace(JOB, sampling=Sampling(presence_penalty=1), stop_ids=frozenset()))
    assert [answer.choose(favourite).ids for _ in range(4)] == [(1,), (2,), (1,), (1,)]
