"""One answer in progress, in an engine."""

from __future__ import annotations

from r3mes.actors.inference.engine import Event, Job
from r3mes.actors.inference.logprobs import pairs_of
from r3mes.actors.inference.sampling import Logits, Tally, adjusted, sample
from r3mes.errors import BadRequest


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
        if job.guide is not None and job.guide.finished:
            return Event(job.id, position, ended="stop")
        try:
            token = self._sample(logits)
        except BadRequest as error:
            return Event(job.id, position, ended="refused", why=error.detail)
        if token in job.stop_ids:
            return Event(job.id, position, ended="stop")
        self.tokens.append(token)
        told = pairs_of(logits, token, job.logprobs) if job.logprobs else b""
        return Event(job.id, position, (token,), self._end(), told)

    def _end(self) -> str:
        """What the token that was written is the end for, if for anything."""
        if self.job.guide is not None and self.job.guide.finished:
            return "stop"
        written = self.position - len(self.job.emitted)
        return "length" if written >= self.job.max_new else ""

    def _sample(self, logits: Logits) -> int:
        job, tally, guide = self.job, self._tally, self.job.guide
        if tally is not None:
            logits = adjusted(job.sampling, logits, tally)
        if guide is not None:
            logits = guide.allowed(logits)
        token = sample(job.sampling, self.position, logits)
        if tally is not None:
            tally.add(token)
        if guide is not None and token not in job.stop_ids:
            guide.take(token)
        return token
