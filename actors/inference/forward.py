"""One call of a model: rows of many answers in, logits of some of them out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


class PlainForward:
    """By the operators of torch.

    Args:
        module: a model of transformers whose attention is `r3mes.actors.inference.slots.attend`.
        cache: keys and values of its answers.
        adapters: that rows may name.
    """

    def __init__(self, module: Any, cache: SlotCache, adapters: Adapters) -> None:
        self._module, self._cache, self._adapters = module, cache, adapters
        self._picks = "logits_to_keep" in inspect.signature(module.forward).parameters

    def __call__(self, call: Call) -> Logits:
        this = call.this
        self._adapters.use(call.adapters)
        ids = torch.tensor([call.tokens], device=this.positions.device)
        wanted = torch.tensor(call.rows, device=this.positions.device)
        options = {"logits_to_keep": wanted} if self._picks else {}
        with torch.inference_mode(), self._cache.using(this):
            output = self._module(
                input_ids=ids, position_ids=this.positions[None], use_cache=False, **options
            )
            kept = output.logits[0] if self._picks else output.logits[0, wanted]
            logits: Logits = kept.to(torch.float32).cpu().numpy()
        return logits
