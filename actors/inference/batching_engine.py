"""The engine on torch: answers join and leave between two steps, and are written together.

One step is a piece of the prompt that came first, if one waits, and one token of every running
answer.  Running answers hold the first slots in order, so attention looks at a slice and copies
nothing; the last one moves into the place of one that ends.

The order of computation keeps the bits of an answer: the prompt in pieces with fixed borders, then
each token as a row by itself, also those that another server wrote, and never one row alone.  Why
that helps is said in `r3mes.actors.inference.slots` and `r3mes.actors.inference.packed`; whether it
holds here is tried out by `r3mes.actors.inference.self_test`.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from r3mes.actors.inference.answer import Answer
from r3mes.actors.inference.engine import Capacity, Event, Job
from r3mes.actors.inference.loading import LoadedModel
from r3mes.actors.inference.low_rank import Adapters
from r3mes.actors.inference.sampling import Logits
from r3mes.actors.inference.slots import Pass, SlotCache, block_pass, row_pass

PIECE = 128
"""Tokens of a prompt in one step: bounds how long running answers and a ping wait."""
REPLAY = 32
"""Tokens that were written elsewhere in one step."""

OnLogits = Callable[[int, int, Logits], None]
"""Told of the logits of each token: the job, the position in its answer, shape (vocabulary,)."""


def unheard(job: int, position: int, logits: Logits) -> None:
    """Nobody looks at the logits."""


def at_least_two(rows: list[int]) -> list[int]:
    """A row is never computed alone: that would take another path, with other bits."""
    return rows * 2 if len(rows) == 1 else rows


class BatchingEngine:
    """An `r3mes.actors.inference.engine.Engine` that writes all answers in one call of the model.

    Args:
        model: whose attention is `r3mes.actors.inference.slots.attend`.
        slots: answers written at the same time.
    """

    def __init__(self, model: LoadedModel, *, slots: int) -> None:
        self._module, self.numerics = model.module, model.numerics
        self.on_logits: OnLogits = unheard
        self._device = torch.device(model.numerics.device)
        self.adapters = Adapters(model.module, self._device, model.module.dtype)
        self._slots = slots
        self.cache = SlotCache(slots + 1)  # the last one is for the prompt that is being read
        self._entering: deque[Answer] = deque()
        self._running: list[Answer] = []
        takes = inspect.signature(model.module.forward).parameters
        self._keep_two: dict[str, Any] = {"logits_to_keep": 2} if "logits_to_keep" in takes else {}

    @property
    def capacity(self) -> Capacity:
        running = len(self._entering) + len(self._running)
        return Capacity(running, self._slots - running)

    @property
    def gpu_bytes(self) -> int:
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0

    def start(self, job: Job) -> None:
        self._entering.append(Answer(job))

    def cancel(self, job_id: int) -> Sequence[Event]:
        for answer in self._entering:
            if answer.job.id == job_id:
                self._entering.remove(answer)
                return [Event(job_id, answer.position, ended="cancelled")]
        for slot, answer in enumerate(self._running):
            if answer.job.id == job_id:
                self._leave(slot)
                return [Event(job_id, answer.position, ended="cancelled")]
        return []

    def step(self) -> Sequence[Event]:
        written = self._write() if self._running else []
        return [*written, *(self._enter() if self._entering else [])]

    def _enter(self) -> list[Event]:
        """Read on in the first answer that is not running yet; its first token, if all is read."""
        answer = self._entering[0]
        logits = self._read(answer)
        if answer.cached < len(answer.tokens):
            return []
        self._entering.popleft()
        event = self._choose(answer, logits)
        if not event.ended:
            self.cache.move(self._slots, len(self._running), answer.cached)
            self._running.append(answer)
        return [event]

    def _read(self, answer: Answer) -> Logits:
        lane, begin, prompt = self._slots, answer.cached, len(answer.job.prompt)
        if begin < prompt:
            answer.cached = min(begin + PIECE, prompt)
            tokens = answer.tokens[begin : answer.cached]
            this = block_pass(lane, begin, answer.cached, self._device)
        else:
            answer.cached = min(begin + REPLAY, len(answer.tokens))
            tokens = at_least_two(answer.tokens[begin : answer.cached])
            positions = at_least_two([*range(begin, answer.cached)])
            this = row_pass([lane] * len(positions), positions, self._device)
        self.adapters.use([answer.job.adapter] * len(tokens))
        last: Logits = self._forward(tokens, this, self._keep_two)[-1]
        return last

    def _write(self) -> list[Event]:
        answers = self._running
        slots = at_least_two([*range(len(answers))])
        positions = at_least_two([answer.cached for answer in answers])
        tokens = at_least_two([answer.tokens[-1] for answer in answers])
        self.adapters.use(at_least_two([answer.job.adapter for answer in answers]))
        logits = self._forward(tokens, row_pass(slots, positions, self._device), {})
        events = []
        for answer, row in zip(answers, logits, strict=False):
            answer.cached += 1
            events.append(self._choose(answer, row))
        for slot in reversed(range(len(events))):
            if events[slot].ended:
                self._leave(slot)
        return events

    def _leave(self, slot: int) -> None:
        """The last running answer takes over the slot."""
        last = self._running.pop()
        if slot < len(self._running):
            self.cache.move(len(self._running), slot, last.cached)
            self._running[slot] = last

    def _choose(self, answer: Answer, logits: Logits) -> Event:
        self.on_logits(answer.job.id, answer.position, logits)
        return answer.choose(logits)

    def _forward(self, tokens: Sequence[int], this: Pass, options: dict[str, Any]) -> Logits:
        """The logits of the rows, or of the last ones; shape (rows, vocabulary)."""
        ids = torch.tensor([tokens], device=self._device)
        with torch.inference_mode(), self.cache.using(this):
            output = self._module(
                input_ids=ids, position_ids=this.positions[None], use_cache=False, **options
            )
            logits: Logits = output.logits[0].to(torch.float32).cpu().numpy()
        return logits
