"""Keys and values of many answers in one tensor per layer, and the attention that uses them.

Every row of a pass is one token of one answer.  The model sees the rows as one sequence; only
attention knows to whom a row belongs: it writes the row's key and value into the answer's slot and
looks at that slot alone.  So any model that takes its attention from transformers' interface runs
here, without code of its own.

What keeps the bits of an answer independent of its neighbours: a row attends as a batch of one
query, and the span of keys is padded to a multiple that depends on the row's own pass only through
masked keys.  Queries of a prompt's piece attend as one block, cut at fixed borders, also where
pieces of several prompts are in one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch.nn import functional
from transformers import AttentionInterface

from r3mes.actors.inference.pages import Paged
from r3mes.actors.inference.reserve import LONG, padded

NAME = "r3mes_slots"
Stretch: TypeAlias = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""Keys and values of some tokens of one answer in every layer, each (tokens, heads, size)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens ``begin`` … ``end`` of the prompt in one slot, read in one pass."""

    slot: int
    begin: int
    end: int

    @property
    def rows(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Pass:
    """The rows of one call of the model.

    Args:
        slots: of each row, shape (rows,).
        positions: of each row in its answer, shape (rows,).
        keys: the slots that are looked at: all rows' (a slice, so that nothing is copied), or the
            one of a single answer.
        span: keys that are looked at, padded.
        pieces: the rows are these pieces of prompts, one after the other, each of which attends as
            a whole to its own slot; empty where each row attends by itself.
    """

    slots: torch.Tensor
    positions: torch.Tensor
    keys: slice
    span: int
    pieces: tuple[Piece, ...] = ()
    _masks: dict[tuple[int, int, int], torch.Tensor] = field(default_factory=dict)

    def mask(self, begin: int, end: int, span: int, window: int | None) -> torch.Tensor:
        """Which keys these rows see, shape (rows, span); made once for all layers."""
        key = (begin, end, window or 0)
        if key not in self._masks:
            self._masks[key] = _mask(self.positions[begin:end], span, window)
        return self._masks[key]


_current: ContextVar[tuple[SlotCache, Pass]] = ContextVar("slot pass")


class SlotCache:
    """Keys and values; a layer's are made when it first needs them.

    In main memory a slot takes pages as they are written.  On a GPU all slots have the same
    length, which is doubled when it gets short.

    Args:
        slots: answers that have room.
        length: most tokens of one of them.
    """

    def __init__(self, slots: int, length: int) -> None:
        self._slots, self._length = slots, -(-length // LONG) * LONG
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._pages: list[Paged] = []
        self._windowed: set[int] = set()

    @property
    def layers(self) -> int:
        """Layers that have written something."""
        return len(self._layers)

    @property
    def windowed(self) -> int:
        """Layers that have looked through a window."""
        return len(self._windowed)

    @property
    def bytes_per_token(self) -> int:
        """What one token takes in all layers that have written something."""
        tensors = [tensor for pair in self._layers.values() for tensor in pair]
        return sum(tensor[0, 0].numel() * tensor.itemsize for tensor in tensors)

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

    def swap(self, one: int, other: int, length: int) -> None:
        """Let two answers change places, of which the longer has ``length`` tokens."""
        with torch.inference_mode():
            for pair in self._layers.values():
                for tensor in pair:
                    kept = tensor[one, :length].clone()
                    tensor[one, :length] = tensor[other, :length]
                    tensor[other, :length] = kept

    def release(self, slot: int, kept: int = 0) -> None:
        """Nobody needs what is in the slot, but for its first ``kept`` tokens."""
        for pages in self._pages:
            pages.give_back(slot, kept)

    def copy_out(self, piece: Piece) -> Stretch:
        """What was written for a piece of a prompt."""
        with torch.inference_mode():
            return tuple(
                (keys[piece.slot, piece.begin : piece.end].clone(),
                 values[piece.slot, piece.begin : piece.end].clone())
                for keys, values in self._layers.values()
            )  # fmt: skip

    def copy_in(self, piece: Piece, stretch: Stretch) -> None:
        """Write what was copied out before."""
        with torch.inference_mode():
            for layer, kept in zip(list(self._layers), stretch, strict=True):
                pair = self.pair(layer, piece.end, *kept)
                for tensor, rows in zip(pair, kept, strict=True):
                    tensor[piece.slot, piece.begin : piece.end] = rows

    def write(self, layer: int, this: Pass, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep the rows' keys and values, shape (rows, heads, size)."""
        pair = self.pair(layer, this.span, key, value)
        for tensor, rows in zip(pair, (key, value), strict=True):
            tensor.index_put_((this.slots, this.positions), rows)

    def look(self, layer: int, slots: slice, span: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the slots, each of shape (slots, heads, span, size)."""
        keys, values = (tensor[slots, :span].transpose(1, 2) for tensor in self._layers[layer])
        return keys, values

    @property
    def tensors(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Keys and values of each layer, in their order."""
        pairs = [pair for _, pair in sorted(self._layers.items())]
        return [keys for keys, _ in pairs], [values for _, values in pairs]

    def pair(
        self, layer: int, span: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer, made with room for ``span`` if need be for such rows."""
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
        if rows.device.type != "cpu":
            return rows.new_zeros(self._slots, min(length, self._length), *rows.shape[1:])
        self._pages.append(Paged((self._slots, self._length, *rows.shape[1:]), rows.dtype))
        return self._pages[-1].tensor


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
    layer, window = module.layer_idx, sliding_window
    cache.write(layer, this, key[0].transpose(0, 1), value[0].transpose(0, 1))

    def product(
        asked: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        if softcap is not None:
            return _softcapped(asked, keys, values, mask, softcap, scaling)
        return functional.scaled_dot_product_attention(
            asked, keys, values, attn_mask=mask, scale=scaling
        )

    rows, heads, kv_heads = query.shape[2], query.shape[1], key.shape[1]
    group = heads // kv_heads
    if this.pieces:  # each (1, heads, rows, size) against (1, heads, span, size)
        outs, begin = [], 0
        for piece in this.pieces:
            end, span = begin + piece.rows, padded(piece.end)
            seen = cache.look(layer, slice(piece.slot, piece.slot + 1), span)
            keys, values = (x.repeat_interleave(group, 1) for x in seen)
            mask = this.mask(begin, end, span, window)[None, None]
            outs.append(product(query[:, :, begin:end], keys, values, mask).transpose(1, 2))
            begin = end
        return torch.cat(outs, 1), None
    # Heads that share keys are the queries: (rows, kv heads, group, size).
    asked = query[0].transpose(0, 1).reshape(rows, kv_heads, group, -1)
    mask = this.mask(0, rows, this.span, window)[:, None, None]
    keys, values = (x.expand(rows, -1, -1, -1) for x in cache.look(layer, this.keys, this.span))
    out = product(asked, keys, values, mask)
    return out.reshape(1, rows, heads, out.shape[-1]), None


def _mask(positions: torch.Tensor, span: int, window: int | None) -> torch.Tensor:
    """Which keys rows at these positions see, shape (rows, span)."""
    keys = torch.arange(span, device=positions.device)
    behind = positions[:, None] - keys
    seen = behind >= 0
    return seen & (behind < window) if window else seen


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
    return Pass(
        torch.tensor(slots, device=device),
        torch.tensor(positions, device=device),
        keys,
        padded(max(positions) + 1),
    )


def piece_pass(pieces: Sequence[Piece], device: torch.device) -> Pass:
    """Pieces of prompts, read together."""
    slots = [piece.slot for piece in pieces for _ in range(piece.rows)]
    positions = [at for piece in pieces for at in range(piece.begin, piece.end)]
    return Pass(
        torch.tensor(slots, device=device),
        torch.tensor(positions, device=device),
        slice(min(slots), max(slots) + 1),
        padded(max(positions) + 1),
        tuple(pieces),
    )


AttentionInterface.register(NAME, attend)
