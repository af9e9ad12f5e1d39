"""One answer in progress, in an engine."""

from __future__ import annotations

from r3mes.actors.inference.engine import Event, Job
from r3mes.actors.inference.sampling import Logits, sample


class Answer:
    """Its tokens, those of the prompt first, and how many of them the cache holds."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.tokens = [*job.prompt, *job.emitted]
        self.cached = 0

    @property
    def position(self) -> int:
        """Of the next token to write; 0 is the first after the prompt."""
        return len(self.tokens) - len(self.job.prompt)

    def choose(self, logits: Logits) -> Event:
        """Take the next token; the answer may end with it, or before it."""
        job, position = self.job, self.position
        token = sample(job.sampling, position, logits)
        if token in job.stop_ids:
            return Event(job.id, position, ended="stop")
        self.tokens.append(token)
        written = self.position - len(job.emitted)
        return Event(job.id, position, (token,), "length" if written >= job.max_new else "")
