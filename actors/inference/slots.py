"""Keys and values of many answers in one tensor per layer, and the attention that uses them.

Every row of a pass is one token of one answer.  The model sees the rows as one sequence; only
attention knows to whom a row belongs: it writes the row's key and value into the answer's slot and
looks at that slot alone.  So any model that takes its attention from transformers' interface runs
here, without code of its own.

What keeps the bits of an answer independent of its neighbours: a row attends as a batch of one
query, and the span of keys is padded to a multiple that depends on the row's own pass only through
masked keys.  Queries of a prompt's piece attend as one block, cut at fixed borders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

NAME = "r3mes_slots"
SHORT, LONG = 64, 512
"""Keys are padded to a multiple of the first up to the second, and of the second above it."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The rows of one call of the model.

    Args:
        slots: of each row, shape (rows,).
        positions: of each row in its answer, shape (rows,).
        keys: the slots that are looked at: all rows' (a slice, so that nothing is copied), or the
            one of a block.
        span: keys that are looked at, padded.
        block: the rows are a piece of one prompt, which attends as a whole.
    """

    slots: torch.Tensor
    positions: torch.Tensor
    keys: slice
    span: int
    block: bool


_current: ContextVar[tuple[SlotCache, Pass]] = ContextVar("slot pass")


class SlotCache:
    """Keys and values, made when a layer first needs them and doubled when they get short.

    Args:
        slots: answers that have room.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._windowed: set[int] = set()

    @property
    def layers(self) -> int:
        """Layers that have written something."""
        return len(self._layers)

    @property
    def windowed(self) -> int:
        """Layers that have looked through a window."""
        return len(self._windowed)

    def note_window(self, layer: int) -> None:
        """The layer looks through a window."""
        self._windowed.add(layer)

    @contextmanager
    def using(self, this: Pass) -> Iterator[None]:
        """Run the model inside of this."""
        token = _current.set((self, this))
        try:
            yield
        finally:
            _current.reset(token)

    def move(self, source: int, target: int, length: int) -> None:
        """Give the answer in one slot another one."""
        with torch.inference_mode():
            for pair in self._layers.values():
                for tensor in pair:
                    tensor[target, :length] = tensor[source, :length]

    def written(
        self, layer: int, this: Pass, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the rows' keys and values, shape (rows, heads, size); what attention looks at.

        Returns:
            Two tensors of shape (slots or 1, heads, span, size).
        """
        pair = self._room(layer, this.span, key, value)
        for tensor, rows in zip(pair, (key, value), strict=True):
            tensor.index_put_((this.slots, this.positions), rows)
        keys, values = (tensor[this.keys, : this.span].transpose(1, 2) for tensor in pair)
        return keys, values

    def _room(
        self, layer: int, span: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pair = self._layers.get(layer)
        if pair is None or pair[0].shape[1] < span:
            length = max(span, LONG if pair is None else 2 * pair[0].shape[1])
            new = (self._zeros(key, length), self._zeros(value, length))
            for old, longer in zip(pair or (), new, strict=False):
                longer[:, : old.shape[1]] = old
            self._layers[layer] = pair = new
        return pair

    def _zeros(self, rows: torch.Tensor, length: int) -> torch.Tensor:
        # Zeros, as masked rubbish that is not a number would still spoil the sum.
        return rows.new_zeros(self._slots, length, *rows.shape[1:])


def padded(length: int) -> int:
    """The span for ``length`` keys."""
    step = SHORT if length <= LONG else LONG
    return -(-length // step) * step


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over slots; query, key and value have the shape (1, heads, rows, size).

    Raises:
        NotImplementedError: the model wants attention sinks.
    """
    if s_aux is not None:
        raise NotImplementedError("attention sinks")
    cache, this = _current.get()
    if sliding_window:
        cache.note_window(module.layer_idx)
    rows, heads, kv_heads = query.shape[2], query.shape[1], key.shape[1]
    keys, values = cache.written(
        module.layer_idx, this, key[0].transpose(0, 1), value[0].transpose(0, 1)
    )
    if this.block:  # (1, heads, rows, size) against (1, heads, span, size)
        asked, mask = query, _mask(this, sliding_window)[None, None]
        keys, values = (x.repeat_interleave(heads // kv_heads, 1) for x in (keys, values))
    else:  # heads that share keys are the queries: (rows, kv heads, group, size)
        asked = query[0].transpose(0, 1).reshape(rows, kv_heads, heads // kv_heads, -1)
        mask = _mask(this, sliding_window)[:, None, None]
        keys, values = (x.expand(rows, -1, -1, -1) for x in (keys, values))
    if softcap is None:
        out = functional.scaled_dot_product_attention(
            asked, keys, values, attn_mask=mask, scale=scaling
        )
    else:
        out = _softcapped(asked, keys, values, mask, softcap, scaling)
    if this.block:
        return out.transpose(1, 2), None
    return out.reshape(1, rows, heads, out.shape[-1]), None


def _mask(this: Pass, sliding_window: int | None) -> torch.Tensor:
    """Which keys each row sees, shape (rows, span)."""
    keys = torch.arange(this.span, device=this.positions.device)
    behind = this.positions[:, None] - keys
    seen = behind >= 0
    return seen & (behind < sliding_window) if sliding_window else seen


def _softcapped(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    softcap: float,
    scaling: float | None,
) -> torch.Tensor:
    """Scores held below ``softcap`` by tanh (Gemma 2), which the fused attention does not offer."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query @ keys.transpose(-2, -1)) * scale
    scores = (torch.tanh(scores / softcap) * softcap).masked_fill(~mask, float("-inf"))
    return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ values


def row_pass(slots: Sequence[int], positions: Sequence[int], device: torch.device) -> Pass:
    """Rows of answers that hold the first slots in order, or of one answer alone."""
    one = len(set(slots)) == 1
    keys = slice(slots[0], slots[0] + 1) if one else slice(0, len(slots))
    return _pass(slots, positions, device, keys, block=False)


def block_pass(slot: int, begin: int, end: int, device: torch.device) -> Pass:
    """A piece of a prompt."""
    positions = range(begin, end)
    keys = slice(slot, slot + 1)
    return _pass([slot] * len(positions), positions, device, keys, block=True)


def _pass(
    slots: Sequence[int],
    positions: Sequence[int],
    device: torch.device,
    keys: slice,
    *,
    block: bool,
) -> Pass:
    return Pass(
        torch.tensor(slots, device=device),
        torch.tensor(positions, device=device),
        keys,
        padded(max(positions) + 1),
        block,
    )


AttentionInterface.register(NAME, attend)
