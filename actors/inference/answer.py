"""One answer in progress, in an engine."""

from __future__ import annotations

from r3mes.actors.inference.engine import Event, Job
from r3mes.actors.inference.logprobs import pairs_of
from r3mes.actors.inference.sampling import Logits, Tally, adjusted, sample


class Answer:
    """Its tokens, those of the prompt first, and how many of them the cache holds."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.tokens = [*job.prompt, *job.emitted]
        self.cached = 0
        # Most requests adjust nothing, and a greedy step should cost what it did.
        self._tally = Tally(job.prompt, job.emitted) if job.sampling.adjusts else None

    @property
    def position(self) -> int:
        """Of the next token to write; 0 is the first after the prompt."""
        return len(self.tokens) - len(self.job.prompt)

    def choose(self, logits: Logits) -> Event:
        """Take the next token; the answer may end with it, or before it."""
        job, position = self.job, self.position
        token = self._sample(logits)
        if token in job.stop_ids:
            return Event(job.id, position, ended="stop")
        self.tokens.append(token)
        told = pairs_of(logits, token, job.logprobs) if job.logprobs else b""
        written = self.position - len(job.emitted)
        return Event(job.id, position, (token,), "length" if written >= job.max_new else "", told)

    def _sample(self, logits: Logits) -> int:
        sampling, tally = self.job.sampling, self._tally
        if tally is None:
            return sample(sampling, self.position, logits)
        token = sample(sampling, self.position, adjusted(sampling, logits, tally))
        tally.add(token)
        return token
