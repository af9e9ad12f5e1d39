"""Products of low rank, for the rows of a call that have adapters.

The matrices of four adapters lie side by side in one stack: one product makes the A·x of all four,
what belongs to other adapters is set to zero in each row, and one product with all B adds the rest.
So the cost hardly depends on how many adapters the rows have, and the shapes of the products not at
all: a row gets the same bits alone, among strangers of other adapters, and wherever its adapter
lies in the stack (tried from 2 to 160 rows in fp32 and bf16).  A zero adds nothing to a sum, and
numbers that are none are refused.

Layers that get the same rows, such as those that make queries, keys and values, share a stack where
these products are so small that calling them is what costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from r3mes.actors.inference.adapter_files import WIDTH
from r3mes.actors.inference.packed import PACKED

ROWS = 16
"""Rows beside which the bits of a row are tried."""

Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""A, of shape (rank, inputs), and B, of shape (outputs, rank) with its scale in it."""
Names: TypeAlias = tuple[str, ...]
"""Layers that get the same rows, in the order in which they are called."""
Kind: TypeAlias = tuple[int, int, int]
"""Which stack, of which rank, for how many layers."""
Hook: TypeAlias = Callable[[nn.Module, tuple[torch.Tensor], torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where an adapter lies.

    Args:
        stack: which one.
        at: its place in the stack, of `WIDTH`.
        ranks: rounded, by the layers that share a stack.
    """

    stack: int
    at: int
    ranks: Mapping[Names, int]


@dataclass(slots=True)
class Rows:
    """Whose the rows of the call are.

    Args:
        strange: by kind, what each row must not get; shape (rows, layers * width * rank).
    """

    strange: dict[Kind, torch.Tensor] = field(default_factory=dict)

    def take(self, places: Sequence[Place | None], device: torch.device) -> None:
        kinds = {
            (one.stack, rank, len(names))
            for one in set(places)
            if one
            for names, rank in one.ranks.items()
        }
        self.strange = {kind: _strange(kind, places).to(device) for kind in kinds}


def _strange(kind: Kind, places: Sequence[Place | None]) -> torch.Tensor:
    stack, rank, layers = kind
    own = torch.tensor([one.at if one and one.stack == stack else -1 for one in places])
    strange = own[:, None] != torch.arange(WIDTH)
    return strange.repeat_interleave(rank, 1).repeat(1, layers)


class Group:
    """The stacks of layers that get the same rows; of one layer, mostly."""

    def __init__(self, rows: Rows, layers: int) -> None:
        self._rows, self._layers = rows, layers
        self.stacks: dict[Kind, Stack] = {}

    @property
    def memory_bytes(self) -> int:
        return sum(stack.memory_bytes for stack in self.stacks.values())

    def hook(self, at: int) -> Hook:
        """Of the layer that is called as the one with this number."""

        def add(_: nn.Module, rows: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            for kind, stack in self.stacks.items():
                strange = self._rows.strange.get(kind)
                if strange is not None:
                    output = stack.added(at, rows[0], output, strange)
            return output

        return add


class Stack:
    """The matrices of up to `WIDTH` adapters of one rank, for layers that get the same rows."""

    def __init__(
        self,
        rank: int,
        inputs: int,
        outputs: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._rank, self._outputs, self._device = rank, list(outputs), device
        self._used: set[int] = set()
        width = len(outputs) * WIDTH * rank
        self._a = torch.zeros(width, inputs, dtype=dtype)
        self._b = torch.zeros(sum(outputs), width, dtype=dtype)
        self._packs = device.type == "cpu" and dtype in PACKED
        self._seen: torch.Tensor | None = None
        self._shares: Sequence[torch.Tensor] = ()

    @property
    def memory_bytes(self) -> int:
        """Kept once for changes, and once for use."""
        return 2 * (self._a.nbytes + self._b.nbytes)

    def fill(self, at: int, pairs: Sequence[Pair | None]) -> None:
        """Put an adapter into a place; None for a layer that it does not change."""
        for (rows, columns), pair in zip(self._parts(at), pairs, strict=True):
            if pair is not None:
                a, b = pair
                low = slice(columns.start, columns.start + len(a))
                self._a[low], self._b[rows, low] = a, b
        self._used.add(at)
        self._ready()

    def clear(self, at: int) -> bool:
        """True if nothing is left."""
        self._used.discard(at)
        for rows, columns in self._parts(at):
            self._a[columns], self._b[rows, columns] = 0, 0
        if self._used:
            self._ready()
        return not self._used

    def _parts(self, at: int) -> Iterator[tuple[slice, slice]]:
        """By layer, the rows of B and the columns in a place; these are the rows of A."""
        begin = 0
        for layer, outputs in enumerate(self._outputs):
            low = (layer * WIDTH + at) * self._rank
            yield slice(begin, begin + outputs), slice(low, low + self._rank)
            begin += outputs

    def _ready(self) -> None:
        ops: Any = torch.ops.mkldnn
        if self._packs:
            self._down, self._up = (ops._reorder_linear_weight(m) for m in (self._a, self._b))
        else:
            self._down, self._up = self._a.to(self._device), self._b.to(self._device)

    def added(
        self, layer: int, rows: torch.Tensor, output: torch.Tensor, strange: torch.Tensor
    ) -> torch.Tensor:
        """``output`` of a layer with the addition of each row's adapter."""
        if len(self._outputs) == 1:
            return self._product(rows, strange, output)
        if rows is not self._seen:
            self._seen = rows
            self._shares = torch.split(self._product(rows, strange, None), self._outputs, -1)
        share = self._shares[layer]
        if layer == len(self._outputs) - 1:
            self._seen, self._shares = None, ()
        return output + share

    def tried(self, rows: torch.Tensor, strange: torch.Tensor) -> list[torch.Tensor]:
        """What all layers make of ``rows``, on top of nothing."""
        rows, strange = rows.to(self._device, self._a.dtype), strange.to(self._device)
        nothing = [rows.new_zeros(len(rows), outputs) for outputs in self._outputs]
        return [self.added(at, rows, zeros, strange) for at, zeros in enumerate(nothing)]

    def _product(
        self, rows: torch.Tensor, strange: torch.Tensor, onto: torch.Tensor | None
    ) -> torch.Tensor:
        result: torch.Tensor
        if not self._packs:
            low = functional.linear(rows, self._down).masked_fill_(strange, 0)
            result = functional.linear(low, self._up)
            return result if onto is None else onto + result
        ops: Any = torch.ops.mkldnn
        low = ops._linear_pointwise(rows, self._down, None, "none", [], "")
        low.masked_fill_(strange, 0)
        if onto is None:
            result = ops._linear_pointwise(low, self._up, None, "none", [], "")
        else:
            result = ops._linear_pointwise.binary(low, onto, self._up, None, "add")
        return result


def same_bits(make: Callable[[], Stack], sizes: tuple[int, Sequence[int]], rank: int) -> bool:
    """Whether rows get the same, alone and beside others, first in a stack and last."""
    inputs, outputs = sizes
    pairs = [(_wave(rank, inputs), _wave(size, rank)) for size in outputs]
    rows, seen = _wave(ROWS, inputs), []
    for at, taken in ((0, 2), (WIDTH - 1, ROWS)):
        stack = make()
        for place in range(at + 1):
            stack.fill(place, pairs)
        strange = _strange((0, rank, len(outputs)), [Place(0, at, {})] * taken)
        seen.append([made[:2] for made in stack.tried(rows[:taken], strange)])
    return all(map(torch.equal, *seen))


def _wave(rows: int, columns: int) -> torch.Tensor:
    """Numbers of all sizes up to 1."""
    return torch.sin(torch.arange(rows * columns, dtype=torch.float32)).view(rows, columns)
