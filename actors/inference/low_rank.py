"""LoRA adapters in a running model: each row of a call gets the addition of its own adapter.

A layer's output gets B·A·x added, with A and B of the row's adapter.  The matrices of four adapters
lie side by side in one stack: one product makes the A·x of all four, what belongs to other adapters
is set to zero in each row, and one product with all B adds the rest.  So the cost hardly depends on
how many adapters the rows have, and the shapes of the products not at all: a row gets the same bits
alone, among strangers of other adapters, and wherever its adapter lies in the stack (tried from 2
to 160 rows in fp32 and bf16).  A zero adds nothing to a sum, and numbers that are none are refused.

Stacks hang on the layers as hooks, and only while an adapter runs: without one nothing is paid.

Source: Hu et al. 2021, "LoRA"; Sheng et al. 2023, "S-LoRA" for rows of many adapters in one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from r3mes.actors.inference.adapter_files import (
    PREFIX,
    WIDTH,
    LowRank,
    described_layers,
    rounded,
)
from r3mes.actors.inference.packed import PACKED, PackedLinear
from r3mes.errors import EngineError, ModelInvalid

ROWS = 16
"""Rows beside which the bits of a row are tried."""
PARTIAL = (".experts.", ".shared_expert")
"""Layers that do not see every row of a call."""
ORDER = f"adapters by {WIDTH}, plan 1"

Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""A, of shape (rank, inputs), and B, of shape (outputs, rank) with its scale in it."""


class Adapters:
    """The adapters of one model that are in memory.

    Args:
        module: the model.
        device: on which it computes.
        dtype: in which.
    """

    def __init__(self, module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self._module, self._device, self._dtype = module, device, dtype
        self._places: dict[int, _Place] = {}
        self._layers: dict[str, _Layer] = {}
        self._hooks: list[Any] = []
        self._rows = _Rows()

    @property
    def memory_bytes(self) -> int:
        """What all of them take together."""
        return sum(layer.memory_bytes for layer in self._layers.values())

    @torch.inference_mode()
    def load(self, number: int, settings: Mapping[str, Any], weights: bytes) -> str:
        """Keep an adapter under ``number``.

        Args:
            number: that rows will name it by; not 0.
            settings: its description.
            weights: its safetensors file.

        Returns:
            The order of computation, for the numeric class.

        Raises:
            ModelInvalid: it is damaged, or of another model.
            EngineError: there is no memory for it.
        """
        pairs = self._pairs(settings, weights)
        place = self._free_place({layer: rounded(len(a)) for layer, (a, _) in pairs.items()})
        exact = self._keeps_bits(pairs)
        try:
            self._fill(place, pairs)
        except (RuntimeError, MemoryError) as error:  # torch has no kind of its own for either
            self._clear(place)
            raise EngineError(f"there is no memory for the adapter: {error}") from None
        self._places[number] = place
        self._detach()
        return f"{ORDER}, {'exact' if exact else 'inexact'}"

    @torch.inference_mode()
    def unload(self, number: int) -> None:
        """Forget an adapter that no answer uses any more."""
        if place := self._places.pop(number, None):
            self._detach()
            self._clear(place)

    def use(self, rows: Sequence[int]) -> None:
        """Be ready for a call of the model; ``rows`` are the adapters of its rows, 0 for none."""
        if any(rows):
            self._rows.take([self._places.get(number) for number in rows], self._device)
            self._attach()
        else:
            self._detach()

    # Putting in and taking out

    def _pairs(self, settings: Mapping[str, Any], weights: bytes) -> dict[str, Pair]:
        try:
            tensors = read_tensors(weights)
        except SafetensorError as error:
            raise ModelInvalid(f"the adapter's weights cannot be read: {error}") from None
        layers = described_layers(settings, {k: tuple(t.shape) for k, t in tensors.items()})
        plain = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
        for name, layer in layers.items():
            self._check_layer(name, layer)
        return {name: self._pair(name, layer, plain) for name, layer in layers.items()}

    def _pair(self, name: str, layer: LowRank, tensors: Mapping[str, torch.Tensor]) -> Pair:
        a = tensors[f"{name}.lora_A.weight"].to(self._dtype)
        b = (tensors[f"{name}.lora_B.weight"].float() * layer.scale).to(self._dtype)
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise ModelInvalid(f"the adapter's weights for {name} are not all numbers")
        return a, b

    def _check_layer(self, name: str, layer: LowRank) -> None:
        try:
            module = self._module.get_submodule(name)
        except AttributeError:
            raise ModelInvalid(
                f"the adapter is of another model: this one has no layer {name}",
                do="load it with the model that it was made for",
            ) from None
        shape = _shape(module)
        if shape is None or module is self._head():
            raise ModelInvalid(f"the adapter changes {name}, which is no linear layer within")
        if any(part in name for part in PARTIAL):
            raise ModelInvalid(f"the adapter changes an expert, {name}, which is not supported")
        if shape != (layer.inputs, layer.outputs):
            raise ModelInvalid(
                f"the adapter is of another model: {name} makes {shape[1]} numbers of {shape[0]}, "
                f"and the adapter's {layer.outputs} of {layer.inputs}",
                do="load it with the model that it was made for",
            )

    def _head(self) -> nn.Module | None:
        """The layer that makes the logits; it is spared rows whose logits nobody asks for."""
        module: Any = self._module
        head: nn.Module | None = module.get_output_embeddings()
        return head

    def _free_place(self, ranks: Mapping[str, int]) -> _Place:
        taken = {(place.stack, place.at) for place in self._places.values()}
        number = next(n for n in range(len(taken) + 1) if divmod(n, WIDTH) not in taken)
        return _Place(*divmod(number, WIDTH), dict(ranks))

    def _keeps_bits(self, pairs: Mapping[str, Pair]) -> bool:
        """Try each shape: rows alone and beside others, first in a stack and last."""
        shapes = {(a.shape, b.shape): (a, b) for a, b in pairs.values()}
        return all(_same_bits(pair, self._device) for pair in shapes.values())

    def _fill(self, place: _Place, pairs: Mapping[str, Pair]) -> None:
        for name, pair in pairs.items():
            layer = self._layers.setdefault(name, _Layer(self._rows))
            layer.fill(place.stack, place.ranks[name], place.at, pair, self._device)

    def _clear(self, place: _Place) -> None:
        for name, rank in place.ranks.items():
            if (layer := self._layers.get(name)) and layer.clear(place.stack, rank, place.at):
                del self._layers[name]

    def _attach(self) -> None:
        if not self._hooks:
            self._hooks = [
                self._module.get_submodule(name).register_forward_hook(layer.add)
                for name, layer in self._layers.items()
            ]

    def _detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an adapter lies.

    Args:
        stack: which one.
        at: its place in the stack, of `WIDTH`.
        ranks: rounded, by layer.
    """

    stack: int
    at: int
    ranks: Mapping[str, int]


@dataclass(slots=True)
class _Rows:
    """Whose the rows of the call are.

    Args:
        strange: by stack and rank, what each row must not get; shape (rows, width * rank).
    """

    strange: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

    def take(self, places: Sequence[_Place | None], device: torch.device) -> None:
        kinds = {(one.stack, rank) for one in places if one for rank in one.ranks.values()}
        self.strange = {kind: _strange(*kind, places).to(device) for kind in kinds}


def _strange(stack: int, rank: int, places: Sequence[_Place | None]) -> torch.Tensor:
    own = torch.tensor([one.at if one and one.stack == stack else -1 for one in places])
    strange = own[:, None] != torch.arange(WIDTH)
    return strange.repeat_interleave(rank, 1)


class _Layer:
    """The stacks of one linear layer, by number and rank."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows
        self._stacks: dict[tuple[int, int], _Stack] = {}

    @property
    def memory_bytes(self) -> int:
        return sum(stack.memory_bytes for stack in self._stacks.values())

    def fill(self, stack: int, rank: int, at: int, pair: Pair, device: torch.device) -> None:
        kind = stack, rank
        if kind not in self._stacks:
            self._stacks[kind] = _Stack(rank, pair, device)
        self._stacks[kind].fill(at, pair)

    def clear(self, stack: int, rank: int, at: int) -> bool:
        """True if nothing is left."""
        kind = stack, rank
        if kind in self._stacks and self._stacks[kind].clear(at):
            del self._stacks[kind]
        return not self._stacks

    def add(self, _: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        """A forward hook."""
        for kind, stack in self._stacks.items():
            strange = self._rows.strange.get(kind)
            if strange is not None:
                output = stack.added(inputs[0], output, strange)
        return output


class _Stack:
    """The matrices of up to `WIDTH` adapters for one layer, of one rank."""

    def __init__(self, rank: int, like: Pair, device: torch.device) -> None:
        self._rank, self._device = rank, device
        self._used: set[int] = set()
        a, b = like
        self._a = a.new_zeros(WIDTH * rank, a.shape[1])
        self._b = b.new_zeros(b.shape[0], WIDTH * rank)
        self._packs = device.type == "cpu" and a.dtype in PACKED

    @property
    def memory_bytes(self) -> int:
        """Kept once for changes, and once for use."""
        return 2 * (self._a.nbytes + self._b.nbytes)

    def fill(self, at: int, pair: Pair) -> None:
        a, b = pair
        begin, end = at * self._rank, at * self._rank + len(a)
        self._a[begin:end], self._b[:, begin:end] = a, b
        self._used.add(at)
        self._ready()

    def clear(self, at: int) -> bool:
        """True if nothing is left."""
        self._used.discard(at)
        part = slice(at * self._rank, (at + 1) * self._rank)
        self._a[part], self._b[:, part] = 0, 0
        if self._used:
            self._ready()
        return not self._used

    def _ready(self) -> None:
        ops: Any = torch.ops.mkldnn
        if self._packs:
            self._down, self._up = (ops._reorder_linear_weight(m) for m in (self._a, self._b))
        else:
            self._down, self._up = self._a.to(self._device), self._b.to(self._device)

    def added(
        self, rows: torch.Tensor, output: torch.Tensor, strange: torch.Tensor
    ) -> torch.Tensor:
        """``output`` with the addition of each row's adapter."""
        if not self._packs:
            low = functional.linear(rows, self._down).masked_fill_(strange, 0)
            return output + functional.linear(low, self._up)
        ops: Any = torch.ops.mkldnn
        low = ops._linear_pointwise(rows, self._down, None, "none", [], "")
        low.masked_fill_(strange, 0)
        result: torch.Tensor = ops._linear_pointwise.binary(low, output, self._up, None, "add")
        return result


def _same_bits(pair: Pair, device: torch.device) -> bool:
    a, b = pair
    rank = rounded(len(a))
    rows = torch.sin(torch.arange(ROWS * a.shape[1])).view(ROWS, -1).to(device, a.dtype)
    output = torch.cos(torch.arange(ROWS * len(b))).view(ROWS, -1).to(device, b.dtype)
    seen = []
    for beside in (False, True):
        stack, at = _Stack(rank, pair, device), WIDTH - 1 if beside else 0
        stack.fill(at, pair)
        for other in range(at):
            stack.fill(other, (a.flip(0), b.flip(0)))
        place = _Place(0, at, {})
        taken = ROWS if beside else 2
        strange = _strange(0, rank, [place] * taken).to(device)
        seen.append(stack.added(rows[:taken], output[:taken], strange)[:2])
    return torch.equal(*seen)


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer; None of others."""
    match module:
        case PackedLinear():
            return module.inputs, module.outputs
        case nn.Linear():
            return module.in_features, module.out_features
        case Conv1D():  # GPT-2's name for one
            return module.nx, module.nf
        case _:
            return None
