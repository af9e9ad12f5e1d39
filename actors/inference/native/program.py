"""A model of transformers as one program, compiled ahead of time around our operators.

The model itself is exported, with our attention registered in it, so that no family needs code of
its own.  The program holds no weights: it is made from ``config.json`` alone, takes no memory worth
mentioning, and is handed the weights of the model that was loaded.

Source: PyTorch documentation, ``torch.export`` and "AOTInductor".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._inductor import aoti_compile_and_package, aoti_load_package
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from r3mes.actors.inference.forward import reading
from r3mes.actors.inference.native.operators import (
    DTYPE,
    NAME,
    NativeLinear,
    Pair,
    replace_linears,
    rows_now,
)
from r3mes.actors.inference.sampling import Logits

LONGEST = 1 << 24
"""Tokens of one slot, at most."""
SETTINGS: dict[str, Any] = {"aot_inductor.package_constants_in_so": False}


@dataclass(frozen=True, slots=True)
class _Given:
    """Rows whose caches are inputs of the program."""

    slots: torch.Tensor
    positions: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]

    def pair(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Pair:
        return self.keys[layer], self.values[layer]


class Step(nn.Module):
    """One call of a model: rows of any answers in, logits of some of them out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._read = reading(model)

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        keep: torch.Tensor,
        keys: list[torch.Tensor],
        values: list[torch.Tensor],
    ) -> torch.Tensor:
        """Logits in float32, shape (kept, vocabulary).

        Args:
            tokens: of each row, shape (rows,).
            positions: of each row in its answer.
            slots: of each row.
            keep: the rows whose logits are wanted, shape (kept,).
            keys: a cache for each layer, shape (slots, length, kv heads, size).
            values: the same.
        """
        before = rows_now.set(_Given(slots, positions, keys, values))
        try:
            return self._read(tokens, positions, keep)
        finally:
            rows_now.reset(before)


def compile_program(model: Path, target: Path, *, scaled: bool) -> None:
    """Compile the model whose description is in a directory; our operators must be loaded.

    Raises:
        Exception: whatever transformers, export or the compiler make of it.
    """
    step = Step(_skeleton(model, scaled=scaled)).eval()
    inputs, shapes = _example(step.model.config)
    with torch.no_grad():
        exported = torch.export.export(step, inputs, dynamic_shapes=shapes, strict=False)
        aoti_compile_and_package(exported, package_path=str(target), inductor_configs=SETTINGS)


def _skeleton(model: Path, *, scaled: bool) -> Any:
    """The model with weights that were never written, and so take no memory."""
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    auto: Any = AutoModelForCausalLM
    with no_init_weights():
        module = auto.from_config(
            config, dtype=DTYPE, attn_implementation=NAME, trust_remote_code=False
        )
    replace_linears(
        module, lambda w, bias: NativeLinear(w.shape[0], w.shape[1], bias, scaled=scaled)
    )
    for parameter in module.parameters():
        if parameter.ndim == 1:  # alike, they would be compiled in as one number
            parameter.data = torch.linspace(0.5, 1, len(parameter), dtype=parameter.dtype)
    return module


def _example(config: Any) -> tuple[tuple[Any, ...], Any]:
    """Inputs of one call, and which of their sizes are free."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    layers, rows, slots, length = text.num_hidden_layers, 7, 5, 96

    def caches() -> list[torch.Tensor]:
        return [torch.zeros(slots, length, heads, size, dtype=DTYPE) for _ in range(layers)]

    # Tensors of their own: what is one object here would be one input of the program.
    tokens, positions, of_slots = (torch.arange(rows) % slots for _ in range(3))
    inputs = (tokens, positions, of_slots, torch.arange(3), caches(), caches())
    most, dim = 1 << 16, torch.export.Dim
    free_rows = {0: dim("rows", min=2, max=most)}
    free_caches = [{0: dim("slots", min=2, max=most), 1: dim("length", min=2, max=LONGEST)}]
    kept = {0: dim("kept", min=2, max=most)}
    shapes = (free_rows, free_rows, free_rows, kept, free_caches * layers, free_caches * layers)
    return inputs, shapes


class Program:
    """A compiled `Step`, computing with the weights of a loaded model.

    Args:
        path: what `compile_program` made.
        model: whose linear layers are ours.

    Raises:
        ValueError: the program wants weights that this model has not.
        Exception: torch cannot load it.
    """

    def __init__(self, path: Path, model: Any) -> None:
        self._run: Any = aoti_load_package(path, run_single_threaded=True)
        step = Step(model)
        there: dict[str, torch.Tensor] = {
            **dict(step.named_parameters(remove_duplicate=False)),
            **dict(step.named_buffers(remove_duplicate=False)),
        }
        names = self._run.get_constant_fqns()
        if missing := sorted(set(names) - set(there)):
            raise ValueError(f"the program wants {missing[0]}")
        # The program keeps their addresses, so they are kept from being freed.
        self._weights = {name: there[name].detach() for name in names}
        self._run.load_constants(self._weights, check_full_update=True, user_managed=True)

    def __call__(self, *inputs: Any) -> Logits:
        """As `Step.forward`."""
        logits: Logits = self._run(*inputs).numpy()
        return logits
