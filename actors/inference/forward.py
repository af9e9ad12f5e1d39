"""One call of a model: rows of many answers in, logits of some of them out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

from r3mes.actors.inference.low_rank import Adapters
from r3mes.actors.inference.sampling import Logits
from r3mes.actors.inference.slots import Pass, SlotCache


@dataclass(frozen=True, slots=True)
class Call:
    """What is computed together.

    Args:
        tokens: of the rows, two or more.
        adapters: of each row, 0 for none.
        this: to whom the rows belong.
        rows: those whose logits are wanted, two or more.
    """

    tokens: Sequence[int]
    adapters: Sequence[int]
    this: Pass
    rows: Sequence[int]


class Forward(Protocol):
    """How a model is computed."""

    def __call__(self, call: Call) -> Logits:
        """The logits of the wanted rows, shape (rows, vocabulary)."""


Read: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits in float32, shape (wanted, vocabulary), from tokens and positions, shape (rows,), and the
rows that are wanted."""


def reading(module: Any) -> Read:
    """How a model of transformers is called; it skips rows that are not wanted, where it can."""
    picks = "logits_to_keep" in inspect.signature(module.forward).parameters

    def read(tokens: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        options = {"logits_to_keep": wanted} if picks else {}
        logits: torch.Tensor = module(
            input_ids=tokens[None], position_ids=positions[None], use_cache=False, **options
        ).logits[0]
        return (logits if picks else logits[wanted]).float()

    return read


class PlainForward:
    """By the operators of torch.

    Args:
        module: a model of transformers whose attention is `r3mes.actors.inference.slots.attend`.
        cache: keys and values of its answers.
        adapters: that rows may name.
    """

    def __init__(self, module: Any, cache: SlotCache, adapters: Adapters) -> None:
        self._read, self._cache, self._adapters = reading(module), cache, adapters

    def __call__(self, call: Call) -> Logits:
        this = call.this
        self._adapters.use(call.adapters)
        ids = torch.tensor(call.tokens, device=this.positions.device)
        wanted = torch.tensor(call.rows, device=this.positions.device)
        with torch.inference_mode(), self._cache.using(this):
            logits: Logits = self._read(ids, this.positions, wanted).cpu().numpy()
        return logits
