"""How a request becomes a job of the engine: at once, or when its grammar has been compiled.

Compiling takes up to some hundred milliseconds, in which the running answers must go on, so a
thread does it and puts the job back into the worker's inbox.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from r3mes.actors.inference.engine import Event, Job
from r3mes.actors.inference.guide import Guides
from r3mes.actors.inference.protocol import Loaded, Start, unpack_ids
from r3mes.actors.inference.sampling import Sampling
from r3mes.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job whose grammar was compiled; with ``why``, one whose grammar was not."""

    job: Job
    why: str = ""


class Intake:
    """Makes jobs out of requests.

    Args:
        loaded: the model.
        later: takes what is prepared, from a thread.
    """

    def __init__(self, loaded: Loaded, later: Callable[[Prepared], None]) -> None:
        self._stop_ids, self._later = loaded.stop_ids, later
        self._guides = Guides(loaded.tokenizer, loaded.vocabulary, loaded.stop_ids)
        self._preparing: set[int] = set()
        self._one = threading.Lock()  # two at once would only take the cores from the engine

    def take(self, start: Start) -> Job | None:
        """The job, or None if it comes later."""
        job = job_of(start, self._stop_ids)
        if not start.grammar:
            return job
        self._preparing.add(job.id)
        threading.Thread(target=self._prepare, args=(job, start.grammar), daemon=True).start()
        return None

    def cancel(self, job_id: int) -> Event | None:
        """The end of a job that is being prepared; None if it is not."""
        if job_id not in self._preparing:
            return None
        self._preparing.discard(job_id)
        return Event(job_id, 0, ended="cancelled")

    def prepared(self, prepared: Prepared) -> Job | Event | None:
        """The job, the end of one that cannot be done, or None for one that was cancelled."""
        job = prepared.job
        if job.id not in self._preparing:
            return None
        self._preparing.discard(job.id)
        if prepared.why:
            return Event(job.id, len(job.emitted), ended="refused", why=prepared.why)
        return job

    def _prepare(self, job: Job, grammar: str) -> None:
        try:
            with self._one:
                guide = self._guides.guide(grammar, job.emitted)
        except BadRequest as error:
            self._later(Prepared(job, error.detail))
        else:
            self._later(Prepared(replace(job, guide=guide)))


def job_of(start: Start, own_stop_ids: tuple[int, ...]) -> Job:
    """A request as the engine takes it."""
    return Job(
        id=start.id,
        prompt=unpack_ids(start.prompt),
        emitted=unpack_ids(start.emitted),
        sampling=_sampling(start),
        max_new=start.max_new,
        stop_ids=frozenset(own_stop_ids).union(unpack_ids(start.stop_ids)),
        adapter=start.adapter,
        owner=start.owner,
        logprobs=start.logprobs,
    )


def _sampling(start: Start) -> Sampling:
    return Sampling(
        temperature=start.temperature,
        top_k=start.top_k,
        top_p=start.top_p,
        seed=start.seed,
        min_p=start.min_p,
        presence_penalty=start.presence_penalty,
        frequency_penalty=start.frequency_penalty,
        repetition_penalty=start.repetition_penalty,
        bias=tuple(zip(unpack_ids(start.bias), start.biases, strict=True)),
    )
