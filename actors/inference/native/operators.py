"""Our operators in torch: loaded from a library, and put into a model in place of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.pytorch_utils import Conv1D

NAME = "r3mes_native"
DTYPE = torch.bfloat16
LARGEST_HEAD = 256
BYTE = 127
"""The largest weight in a byte, either way."""

Pair = tuple[torch.Tensor, torch.Tensor]


class Rows(Protocol):
    """What attention needs to know of the rows of a call."""

    @property
    def slots(self) -> torch.Tensor:
        """Of each row, shape (rows,)."""

    @property
    def positions(self) -> torch.Tensor:
        """Of each row in its answer, shape (rows,)."""

    def pair(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Pair:
        """The caches of a layer, shape (slots, length, kv heads, size); made for such rows."""


rows_now: ContextVar[Rows] = ContextVar("rows of native attention")


def load(kernels: Path) -> None:
    """Make the operators known to torch; once in a process.

    Raises:
        OSError: the library does not fit this machine or torch.
    """
    if hasattr(torch.ops.r3mes, "linear"):
        return
    library: Any = torch.ops
    library.load_library(kernels)
    torch.library.register_fake("r3mes::linear", _shape_of_linear)
    torch.library.register_fake("r3mes::attend", _shape_of_attend)


def _shape_of_linear(
    x: torch.Tensor, packed: Any, scale: Any, bias: Any, outputs: int
) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], outputs)


def _shape_of_attend(q: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


class NativeLinear(nn.Module):
    """What ``nn.Linear`` computes, on weights in the order in which our operator reads them.

    Args:
        outputs: numbers of a row that comes out.
        inputs: numbers of a row that goes in; even.
        bias: added to the sums, shape (outputs,), or None.
        scaled: the weights are bytes, and each output has a scale for them.
    """

    WIDTH = 16
    """Outputs of one panel, see ``kernels.cpp``."""

    packed: torch.Tensor
    scale: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(
        self, outputs: int, inputs: int, bias: torch.Tensor | None, *, scaled: bool
    ) -> None:
        super().__init__()
        self.outputs, self.inputs = outputs, inputs
        shape = (-(-outputs // self.WIDTH), inputs // 2, self.WIDTH, 2)
        packed = torch.empty(shape, dtype=torch.int8 if scaled else DTYPE)
        self.register_buffer("packed", packed)
        self.register_buffer("scale", torch.empty(outputs) if scaled else None)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    @classmethod
    def of(
        cls, weight: torch.Tensor, bias: torch.Tensor | None, *, scaled: bool = False
    ) -> NativeLinear:
        """Of a weight of shape (outputs, inputs)."""
        made = cls(weight.shape[0], weight.shape[1], bias, scaled=scaled)
        weight = weight.detach()
        if scaled:
            made.scale = (weight.float().abs().amax(1) / BYTE).clamp_min(torch.finfo().tiny)
            weight = (weight.float() / made.scale[:, None]).round().to(torch.int8)
        made.packed = torch.ops.r3mes.pack(weight)
        return made

    @property
    def weight(self) -> torch.Tensor:
        """As it was before, but for what bytes have rounded; shape (outputs, inputs)."""
        plain = self.packed.permute(0, 2, 1, 3).reshape(-1, self.inputs)[: self.outputs]
        return plain if self.scale is None else (plain * self.scale[:, None]).to(DTYPE)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = torch.ops.r3mes.linear(
            rows, self.packed, self.scale, self.bias, self.outputs
        )
        return made


Make = Callable[[torch.Tensor, torch.Tensor | None], nn.Module]


def replace_linears(module: nn.Module, make: Make) -> None:
    """Put what ``make`` makes of weight and bias in the place of each linear layer.

    Raises:
        NotImplementedError: of one the operator cannot compute.
    """
    for name, child in module.named_children():
        match child:
            case nn.Linear(weight=weight, bias=bias):
                setattr(module, name, make(_checked(weight), bias))
            case Conv1D(weight=weight, bias=bias):  # GPT-2's name for one
                setattr(module, name, make(_checked(weight.t()), bias))
            case _:
                replace_linears(child, make)


def restore_linears(module: nn.Module) -> None:
    """Put torch's own layers back."""
    for name, child in module.named_children():
        if isinstance(child, NativeLinear):
            bias = child.bias
            old = nn.Linear(child.inputs, child.outputs, bias is not None, device="meta")
            old.weight = nn.Parameter(child.weight, requires_grad=False)
            if bias is not None:
                old.bias = nn.Parameter(bias.to(DTYPE), requires_grad=False)
            setattr(module, name, old)
        else:
            restore_linears(child)


def _checked(weight: torch.Tensor) -> torch.Tensor:
    if weight.shape[1] % 2 or weight.dtype != DTYPE:
        raise NotImplementedError(f"a layer of {weight.dtype} with {weight.shape[1]} inputs")
    return weight


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
        NotImplementedError: the model wants attention sinks, or heads of a size that is not made.
    """
    size = query.shape[-1]
    if s_aux is not None or size != value.shape[-1] or size % 2 or size > LARGEST_HEAD:
        raise NotImplementedError("attention sinks, or heads of another size")
    this = rows_now.get()
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    keys, values = this.pair(module.layer_idx, k, v)
    scale = size**-0.5 if scaling is None else scaling
    out = torch.ops.r3mes.attend(
        q,
        k,
        v,
        keys,
        values,
        this.slots,
        this.positions,
        scale,
        sliding_window or 0,
        softcap or 0.0,
    )
    return out[None], None


AttentionInterface.register(NAME, attend)
