"""Linear layers packed once for oneDNN: faster at few rows, and a row's bits are its own.

A row gives the same bits whatever other rows are in the call, for two rows or more (measured from
2 to 160 rows in fp32 and bf16; a single row takes another path).  Unpacked, ``F.linear`` in fp32
differs at nearly every other number of rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

PACKED = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """What ``nn.Linear`` computes, on weights that oneDNN has laid out for itself.

    Args:
        weight: of shape (out, in), on the CPU.
        bias: of shape (out,), or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.outputs, self.inputs = weight.shape
        ops: Any = torch.ops.mkldnn
        self._packed = ops._reorder_linear_weight(weight.detach().contiguous())
        self._bias = None if bias is None else bias.detach()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        ops: Any = torch.ops.mkldnn
        result: torch.Tensor = ops._linear_pointwise(rows, self._packed, self._bias, "none", [], "")
        return result


def pack(module: nn.Module) -> None:
    """Replace the linear layers in ``module`` by packed ones, on the devices that have them."""
    for name, child in module.named_children():
        match child:
            case nn.Linear(weight=weight, bias=bias) if _can_be(weight):
                setattr(module, name, PackedLinear(weight, bias))
            case Conv1D(weight=weight, bias=bias) if _can_be(weight):  # GPT-2's name for one
                setattr(module, name, PackedLinear(weight.t(), bias))
            case _:
                pack(child)


def _can_be(weight: torch.Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype in PACKED
