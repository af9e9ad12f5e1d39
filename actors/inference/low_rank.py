"""LoRA adapters in a running model: each row of a call gets the addition of its own adapter.

A layer's output gets B·A·x added, with A and B of the row's adapter; how that is computed for rows
of many adapters is in `r3mes.actors.inference.stacks`.  It hangs on the layers as hooks, and only
while an adapter runs: without one nothing is paid.

Source: Hu et al. 2021, "LoRA"; Sheng et al. 2023, "S-LoRA" for rows of many adapters in one call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from torch import nn
from transformers.pytorch_utils import Conv1D

from r3mes.actors.inference.adapter_files import (
    PREFIX,
    WIDTH,
    LowRank,
    described_layers,
    rounded,
)
from r3mes.actors.inference.native.operators import NativeLinear
from r3mes.actors.inference.packed import PackedLinear
from r3mes.actors.inference.stacks import Group, Names, Pair, Place, Rows, Stack, same_bits
from r3mes.errors import EngineError, ModelInvalid

SMALL = 1 << 19
"""Numbers in B up to which layers share a stack; most of them are zeros there."""
PARTIAL = (".experts.", ".shared_expert")
"""Layers that do not see every row of a call."""
ORDER = f"adapters by {WIDTH}, plan 1"


class Adapters:
    """The adapters of one model that are in memory.

    Args:
        module: the model.
        device: on which it computes.
        dtype: in which.
        siblings: by layer, the layers that get the same rows; see `watching`.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        siblings: Mapping[str, Names],
    ) -> None:
        self._module, self._device, self._dtype = module, device, dtype
        self._siblings = siblings
        self._places: dict[int, Place] = {}
        self._groups: dict[Names, Group] = {}
        self._hooks: list[Any] = []
        self._rows = Rows()

    @property
    def memory_bytes(self) -> int:
        """What all of them take together."""
        return sum(group.memory_bytes for group in self._groups.values())

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
        place = self._free_place(self._ranks(pairs))
        try:
            exact = self._keeps_bits(place)
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
        if shape is None or module is _head(self._module):
            raise ModelInvalid(f"the adapter changes {name}, which is no linear layer within")
        if any(part in name for part in PARTIAL):
            raise ModelInvalid(f"the adapter changes an expert, {name}, which is not supported")
        if shape != (layer.inputs, layer.outputs):
            raise ModelInvalid(
                f"the adapter is of another model: {name} makes {shape[1]} numbers of {shape[0]}, "
                f"and the adapter's {layer.outputs} of {layer.inputs}",
                do="load it with the model that it was made for",
            )

    def _ranks(self, pairs: Mapping[str, Pair]) -> dict[Names, int]:
        """The stacks that an adapter needs, and their ranks."""
        own = {name: rounded(len(a)) for name, (a, _) in pairs.items()}
        ranks = {}
        for name, rank in own.items():
            names = self._siblings.get(name, (name,))
            largest = max(own.get(sibling, 0) for sibling in names)
            if sum(self._sizes(names)[1]) * len(names) * WIDTH * largest <= SMALL:
                ranks[names] = largest
            else:
                ranks[name,] = rank
        return ranks

    def _sizes(self, names: Names) -> tuple[int, list[int]]:
        """Inputs and outputs of layers that get the same rows."""
        shapes = [_shape(self._module.get_submodule(name)) or (0, 0) for name in names]
        return shapes[0][0], [outputs for _, outputs in shapes]

    def _free_place(self, ranks: Mapping[Names, int]) -> Place:
        taken = {(place.stack, place.at) for place in self._places.values()}
        number = next(n for n in range(len(taken) + 1) if divmod(n, WIDTH) not in taken)
        return Place(*divmod(number, WIDTH), ranks)

    def _stack(self, names: Names, rank: int) -> Stack:
        return Stack(rank, *self._sizes(names), self._dtype, self._device)

    def _keeps_bits(self, place: Place) -> bool:
        """Try each shape: rows alone and beside others, first in a stack and last."""
        kinds = {(rank, str(self._sizes(names))): names for names, rank in place.ranks.items()}
        return all(
            same_bits(partial(self._stack, names, rank), self._sizes(names), rank)
            for (rank, _), names in kinds.items()
        )

    def _fill(self, place: Place, pairs: Mapping[str, Pair]) -> None:
        for names, rank in place.ranks.items():
            group = self._groups.setdefault(names, Group(self._rows, len(names)))
            kind = place.stack, rank, len(names)
            stack = group.stacks.get(kind) or self._stack(names, rank)
            group.stacks[kind] = stack
            stack.fill(place.at, [pairs.get(name) for name in names])

    def _clear(self, place: Place) -> None:
        for names, rank in place.ranks.items():
            group, kind = self._groups.get(names), (place.stack, rank, len(names))
            if group and kind in group.stacks and group.stacks[kind].clear(place.at):
                del group.stacks[kind]
            if group and not group.stacks:
                del self._groups[names]

    def _attach(self) -> None:
        if not self._hooks:
            self._hooks = [
                self._module.get_submodule(name).register_forward_hook(group.hook(at))
                for names, group in self._groups.items()
                for at, name in enumerate(names)
            ]

    def _detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


@contextmanager
def watching(module: nn.Module, siblings: dict[str, Names]) -> Iterator[None]:
    """Learn, from a call of the model inside of this, which linear layers get the same rows."""
    groups: list[list[str]] = []
    last: torch.Tensor | None = None

    def note(name: str, rows: torch.Tensor) -> None:
        nonlocal last
        if rows is not last:
            groups.append([])
        groups[-1].append(name)
        last = rows

    hooks = [
        layer.register_forward_pre_hook(lambda _, rows, name=name: note(name, rows[0]))
        for name, layer in module.named_modules()
        if _shape(layer) and layer is not _head(module) and not any(p in name for p in PARTIAL)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    siblings.update({name: tuple(group) for group in groups for name in group})


def _head(module: Any) -> nn.Module | None:
    """The layer that makes the logits; it is spared rows whose logits nobody asks for."""
    head: nn.Module | None = module.get_output_embeddings()
    return head


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer; None of others."""
    match module:
        case PackedLinear() | NativeLinear():
            return module.inputs, module.outputs
        case nn.Linear():
            return module.in_features, module.out_features
        case Conv1D():  # GPT-2's name for one
            return module.nx, module.nf
        case _:
            return None
