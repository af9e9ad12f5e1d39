"""Makes an OpenVINO model of one that transformers loads, without any other tool.

``python -m r3mes.actors.inference.openvino.export MODEL TARGET``; the worker runs it, confined as
it is, in a process of its own, so that torch and its memory are gone afterwards.

The model is traced with our attention: keys and values of the past are inputs, those of past and
present outputs.  OpenVINO then keeps them inside (a stateful model), in the form that its paged
attention knows.  No code per family; what its attention does beyond the plain is refused, and the
result is kept only if it computes the logits that torch computes.

Source: the form of the graph is that of optimum-intel's stateful export (``beam_idx``, initial
states), which paged attention was written for.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from openvino import opset13 as operations
from openvino._offline_transformations import apply_make_stateful_transformation
from transformers import AttentionInterface, DynamicCache

from r3mes.actors.inference.choice import EXPORT
from r3mes.actors.inference.loading import LoadedModel, load_model
from r3mes.actors.inference.openvino.program import Piece, Program
from r3mes.actors.inference.sandbox import die_with_parent
from r3mes.errors import ModelInvalid, R3mesError

NAME = "r3mes-openvino"
FAR = 0.05
"""Most distance of the logits from those of torch, over their length."""
TOKENS = 70
MODEL, DRAFT = EXPORT, "draft"


class _Past(DynamicCache):
    """Keys and values as tensors of the traced call, each joined with what comes."""

    def __init__(self, past: list[tuple[Any, Any]]) -> None:
        super().__init__()
        self._past = past
        self.present: list[tuple[Any, Any]] = [*past]

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *_: Any, **__: Any) -> Any:
        keys, values = self._past[layer_idx]
        self.present[layer_idx] = (
            torch.cat([keys, key_states], dim=-2),
            torch.cat([values, value_states], dim=-2),
        )
        return self.present[layer_idx]

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        return self._past[layer_idx][0].shape[-2]


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Any = None,
    **_: Any,
) -> tuple[Any, None]:
    """Plain attention over all that the mask shows; key heads repeated for their query heads."""
    if sliding_window or softcap or s_aux is not None:
        raise ModelInvalid("its attention has windows, soft caps or sinks")
    batch, heads, length, size = key.shape
    if (times := query.shape[1] // heads) > 1:
        wide = (batch, heads, times, length, size)
        key = key[:, :, None].expand(*wide).reshape(batch, heads * times, length, size)
        value = value[:, :, None].expand(*wide).reshape(batch, heads * times, length, size)
    output = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling
    )
    return output.transpose(1, 2).contiguous(), None


class _Traced(torch.nn.Module):
    """The call that is traced."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(
        self, input_ids: Any, attention_mask: Any, position_ids: Any, past: list[tuple[Any, Any]]
    ) -> Any:
        new, whole = input_ids.shape[1], attention_mask.shape[1]
        seen = torch.arange(whole)[None, :] <= (torch.arange(new) + (whole - new))[:, None]
        mask = seen[None, None] & attention_mask[:, None, None, :].to(torch.bool)
        cache = _Past(past)
        output = self.module(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return (output.logits, *(one for pair in cache.present for one in pair))


def export(source: Path, target: Path) -> None:
    """Write ``openvino_model.xml`` and its weights into ``target``.

    Raises:
        ModelInvalid: the model cannot be exported, or the result computes something else.
    """
    loaded = load_model(source, device="cpu", dtype="auto", max_context=0)
    expected = _logits(loaded)
    draft = target / f"{DRAFT}.xml"
    openvino.save_model(_converted(loaded.module), draft, compress_to_fp16=False)
    tokens = _prompt(loaded)
    program = Program(draft, slots=1, context=len(tokens), precision="f32")
    seen = torch.from_numpy(program.run([Piece(0, 0, tokens, wanted=True)])[0])
    distance = float((seen - expected).norm() / expected.norm())
    if not distance < FAR:
        raise ModelInvalid(f"the export's logits are {distance:.2g} away from those of torch")
    draft.with_suffix(".bin").rename((target / MODEL).with_suffix(".bin"))
    draft.rename(target / MODEL)  # the last: where it is, the rest is whole


def _prompt(loaded: LoadedModel) -> list[int]:
    length = min(TOKENS, loaded.numerics.context)
    return [(7 * i + 5) % loaded.numerics.vocabulary for i in range(length)]


def _logits(loaded: LoadedModel) -> Any:
    with torch.inference_mode():
        output = loaded.module(input_ids=torch.tensor([_prompt(loaded)]), use_cache=False)
    return output.logits[0, -1].float()


def _converted(module: Any) -> Any:
    config = module.config.get_text_config()
    layers, heads = config.num_hidden_layers, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    AttentionInterface.register(NAME, attend)
    module.set_attn_implementation(NAME)
    # OpenVINO's own way to trace weights of 16 bits as they are, and not as twice the size.
    patch: Any = import_module("openvino.frontend.pytorch.patch_model")
    patch.__dict__["__make_16bit_traceable"](module)
    past = [(torch.zeros(2, heads, 3, size), torch.zeros(2, heads, 3, size)) for _ in range(layers)]
    example = (
        torch.ones(2, 2, dtype=torch.long),
        torch.ones(2, 5, dtype=torch.long),
        torch.arange(3, 5)[None].repeat(2, 1),
        past,
    )
    with torch.no_grad():
        model = openvino.convert_model(_Traced(module), example_input=example)
    return _stateful(model, layers, (heads, size))


def _stateful(model: Any, layers: int, shape: tuple[int, int]) -> Any:
    """Name inputs and outputs, and have the model keep keys and values itself."""
    heads, size = shape
    kept = [f"{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]
    inputs = ["input_ids", "attention_mask", "position_ids", *(f"past.{name}" for name in kept)]
    for port, name in zip(model.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
        past = name.startswith("past.")
        port.get_node().set_partial_shape(
            openvino.PartialShape([-1, heads, -1, size] if past else [-1, -1])
        )
    outputs = ["logits", *(f"present.{name}" for name in kept)]
    for port, name in zip(model.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    _choose_beams(model)
    apply_make_stateful_transformation(model, {f"past.{n}": f"present.{n}" for n in kept})
    _begin_empty(model, shape)
    return model


def _choose_beams(model: Any) -> None:
    """The past of which row goes on: an input that paged attention looks for."""
    beams = operations.parameter(openvino.PartialShape([-1]), openvino.Type.i32, name="beam_idx")
    beams.output(0).get_tensor().set_names({"beam_idx"})
    model.add_parameters([beams])
    for port in model.inputs:
        if port.get_any_name().startswith("past."):
            readers = port.get_target_inputs()
            chosen = operations.gather(port, beams, operations.constant(0))
            for reader in readers:
                reader.replace_source_output(chosen.output(0))
    model.validate_nodes_and_infer_types()


def _begin_empty(model: Any, shape: tuple[int, int]) -> None:
    """A past without tokens, for as many rows as there are."""
    heads, size = shape
    rows = operations.gather(
        operations.shape_of(model.input("input_ids"), output_type="i64"),
        operations.constant([0]),
        operations.constant(0),
    )
    lengths = [operations.constant(np.array([one], np.int64)) for one in (heads, 0, size)]
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            zero = operations.constant(0.0, dtype=node.get_output_element_type(0))
            empty = operations.broadcast(zero, operations.concat([rows, *lengths], axis=0))
            node.set_arguments([empty])
    model.validate_nodes_and_infer_types()


def main(source: Path, target: Path) -> int:
    """Export; why it failed goes to standard error as one line."""
    die_with_parent()
    talk: Any = import_module("transformers.utils.logging")
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    torch.set_num_threads(1)
    try:
        export(source, target)
    except R3mesError as error:
        sys.stderr.write(f"{error.detail}\n")
        return 1
    except Exception as error:  # noqa: BLE001  whatever a model's code makes of the tracing
        lines = [line for line in str(error).splitlines() if line.strip()]
        sys.stderr.write(f"{type(error).__name__}: {lines[0][:300] if lines else ''}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
