"""The engine for models that cannot be batched exactly: a few answers in turn, any causal model.

The order of computation depends on nothing but the prompt and the tokens written: the prompt in
pieces with fixed borders, then one token at a time, also for tokens that another server wrote.
So an answer that continues here gets the bits that it would have got there, at the price of
writing those tokens again.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from r3mes.actors.inference.answer import Answer
from r3mes.actors.inference.engine import Capacity, Event, Job, Numerics
from r3mes.actors.inference.loading import LoadedModel
from r3mes.actors.inference.low_rank import Adapters
from r3mes.actors.inference.sampling import Logits

PIECE = 256
"""Tokens of a prompt in one step: bounds how long a cancel or a ping waits."""


class _Answer(Answer):
    """An answer with a cache of its own."""

    def __init__(self, job: Job, cache: DynamicCache) -> None:
        super().__init__(job)
        self.cache = cache

    def next_piece(self) -> list[int]:
        prompt = len(self.job.prompt)
        if self.cached < prompt:
            return self.tokens[self.cached : min(self.cached + PIECE, prompt)]
        return self.tokens[self.cached : self.cached + 1]


class SequentialEngine:
    """An `r3mes.actors.inference.engine.Engine` that advances each answer by itself.

    Args:
        slots: answers written at the same time; they share the machine, nothing is batched.
    """

    def __init__(self, model: LoadedModel, *, slots: int) -> None:
        self._module = model.module
        self._numerics = model.numerics.of_class("in turn, plan 1")
        self._slots = slots
        device = torch.device(model.numerics.device)
        self.adapters = Adapters(model.module, device, model.module.dtype, model.siblings)
        self._answers: dict[int, _Answer] = {}
        takes = inspect.signature(model.module.forward).parameters
        self._options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    @property
    def numerics(self) -> Numerics:
        return self._numerics

    @property
    def capacity(self) -> Capacity:
        return Capacity(len(self._answers), self._slots - len(self._answers))

    @property
    def gpu_bytes(self) -> int:
        device = self._numerics.device
        return torch.cuda.memory_reserved(device) if device.startswith("cuda") else 0

    def start(self, job: Job) -> None:
        self._answers[job.id] = _Answer(job, DynamicCache(config=self._module.config))

    def cancel(self, job_id: int) -> Sequence[Event]:
        answer = self._answers.pop(job_id, None)
        return [Event(job_id, answer.position, ended="cancelled")] if answer else []

    def step(self) -> Sequence[Event]:
        events = [event for answer in self._answers.values() if (event := self._advance(answer))]
        for event in events:
            if event.ended:
                del self._answers[event.id]
        return events

    def _advance(self, answer: _Answer) -> Event | None:
        piece = answer.next_piece()
        self.adapters.use([answer.job.adapter] * len(piece))
        logits = self._forward(piece, answer.cache)
        answer.cached += len(piece)
        if answer.cached < len(answer.tokens):
            return None  # more of the prompt, or of what was written before, is to come
        return answer.choose(logits)

    def _forward(self, piece: list[int], cache: DynamicCache) -> Logits:
        ids = torch.tensor([piece], device=self._numerics.device)
        with torch.inference_mode():
            output = self._module(
                input_ids=ids, past_key_values=cache, use_cache=True, **self._options
            )
        logits: Logits = output.logits[0, -1].to(torch.float32).cpu().numpy().astype(np.float32)
        return logits
