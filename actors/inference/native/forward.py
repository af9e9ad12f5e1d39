"""A model computed by our operators, and by its compiled program where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from r3mes.actors.inference.forward import Call, reading
from r3mes.actors.inference.low_rank import Adapters
from r3mes.actors.inference.native.operators import Pair, rows_now
from r3mes.actors.inference.native.program import Program
from r3mes.actors.inference.sampling import Logits
from r3mes.actors.inference.slots import Pass, SlotCache, row_pass


@dataclass(frozen=True, slots=True)
class _Cached:
    """Rows whose keys and values are kept in a cache."""

    cache: SlotCache
    this: Pass

    @property
    def slots(self) -> torch.Tensor:
        return self.this.slots

    @property
    def positions(self) -> torch.Tensor:
        return self.this.positions

    def pair(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Pair:
        return self.cache.pair(layer, self.this.span, key, value)


class NativeForward:
    """An `r3mes.actors.inference.forward.Forward`.

    A program computes with other bits than the model that it was made of, so each row always goes
    the same way: by the program, or past it if it has an adapter.

    Args:
        module: whose attention and linear layers are ours.
        cache: keys and values of its answers.
        adapters: that rows may name.
        program: the model, compiled; None if there is none.
    """

    def __init__(
        self, module: Any, cache: SlotCache, adapters: Adapters, program: Program | None
    ) -> None:
        self._read, self._cache, self._adapters = reading(module), cache, adapters
        with torch.inference_mode():  # has the caches made, whose shapes only the model knows
            self._by_model([0, 0], row_pass([0, 0], [0, 1], torch.device("cpu")), [0, 1])
        cache.release(0)
        self._program = program

    @torch.inference_mode()
    def __call__(self, call: Call) -> Logits:
        adapted = [bool(number) for number in call.adapters]
        if self._program is None or all(adapted):
            self._adapters.use(call.adapters)
            return self._by_model(call.tokens, call.this, call.rows)
        if not any(adapted):
            return self._by_program(self._program, call.tokens, call.this, call.rows)
        return self._apart(self._program, call, adapted)

    def _apart(self, program: Program, call: Call, adapted: Sequence[bool]) -> Logits:
        """Rows with and without adapters, each by its own way."""
        wanted: dict[int, np.ndarray[Any, Any]] = {}
        for side in (False, True):
            rows = [row for row, one in enumerate(adapted) if one is side]
            rows = rows * 2 if len(rows) == 1 else rows
            tokens = [call.tokens[row] for row in rows]
            this = Pass(call.this.slots[rows], call.this.positions[rows], call.this.keys,
                        call.this.span)  # fmt: skip
            kept = [at for at, row in enumerate(rows) if row in call.rows] or [0]
            kept = kept * 2 if len(kept) == 1 else kept
            if side:
                self._adapters.use([call.adapters[row] for row in rows])
                logits = self._by_model(tokens, this, kept)
            else:
                logits = self._by_program(program, tokens, this, kept)
            wanted |= {rows[at]: one for at, one in zip(kept, logits, strict=True)}
        return np.stack([wanted[row] for row in call.rows])

    def _by_model(self, tokens: Sequence[int], this: Pass, rows: Sequence[int]) -> Logits:
        before = rows_now.set(_Cached(self._cache, this))
        try:
            logits = self._read(torch.tensor(tokens), this.positions, torch.tensor(rows))
        finally:
            rows_now.reset(before)
        read: Logits = logits.numpy()
        return read

    def _by_program(
        self, program: Program, tokens: Sequence[int], this: Pass, rows: Sequence[int]
    ) -> Logits:
        ids, wanted = torch.tensor(tokens), torch.tensor(rows)
        logits: Logits = program(ids, this.positions, this.slots, wanted, *self._cache.tensors)
        return logits
