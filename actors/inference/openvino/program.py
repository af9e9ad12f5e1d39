"""A model as OpenVINO computes it: rows of several answers in one call, keys and values in blocks.

The export is a model for one conversation, with its memory inside.  OpenVINO's own transformation
turns that into paged attention, where the memory is handed in as blocks, and sequences of any
lengths go into one call.  The logits come out, so that tokens are chosen as with every engine.

Each slot owns a fixed range of blocks: memory that no answer has reached yet is never touched,
and so is not taken from the machine either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as operations
from openvino._offline_transformations import paged_attention_transformation

from r3mes.actors.inference.sampling import Logits
from r3mes.errors import EngineError, ModelInvalid

BLOCK = 32
"""Tokens of one block of keys and values; OpenVINO's, on the CPU."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one answer that go into a call.

    Args:
        slot: whose keys and values they see, and add to.
        begin: position of the first one.
        wanted: whether the logits behind the last one are needed.
    """

    slot: int
    begin: int
    tokens: Sequence[int]
    wanted: bool

    @property
    def end(self) -> int:
        return self.begin + len(self.tokens)


class Program:
    """A compiled model with the memory of its slots.

    Args:
        file: ``openvino_model.xml`` with its weights beside it.
        slots: answers at the same time.
        context: most tokens of one.
        precision: in which it computes: ``bf16``, ``f16`` or ``f32``.
        threads: of the CPU; 0 for OpenVINO's choice.

    Raises:
        ModelInvalid: it is not a decoder that can be given blocks.
        EngineError: there is no memory for the slots.
    """

    def __init__(
        self, file: Path, *, slots: int, context: int, precision: str, threads: int = 0
    ) -> None:
        core = openvino.Core()
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "KV_CACHE_PRECISION": precision,
            "ENABLE_CPU_PINNING": False,  # the machine is not the worker's alone
            **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
        }
        try:
            model: Any = core.read_model(file)
            self.parameters = sum(map(_size, model.get_ops()))
            paged_attention_transformation(model)
            _ask_for_rows(model)
            compiled: Any = core.compile_model(model, "CPU", options)
        except Exception as error:
            raise ModelInvalid(f"{file} cannot be run by OpenVINO: {_first_line(error)}") from error
        self.vocabulary = int(compiled.outputs[0].partial_shape[-1].get_length())
        self.precision = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        self._request: Any = compiled.create_infer_request()
        self._blocks_each = -(-context // BLOCK)
        try:
            self._give_memory(compiled.inputs, slots * self._blocks_each)
        except Exception as error:
            raise EngineError(
                f"there is no memory for {slots} answers of {context} tokens: {_first_line(error)}",
                do="set max_context or limits.slots lower",
            ) from error

    def _give_memory(self, ports: Any, blocks: int) -> None:
        for port in ports:
            if "_cache." in (name := port.get_any_name()):
                each = [size.get_length() for size in list(port.partial_shape)[1:]]
                memory = openvino.Tensor(port.element_type, openvino.Shape([blocks, *each]))
                self._request.set_tensor(name, memory)

    def run(self, pieces: Sequence[Piece]) -> Logits:
        """Compute; the logits of the wanted ones, shape (wanted, vocabulary).

        They are good until the next call.
        """
        tokens = [token for piece in pieces for token in piece.tokens]
        positions = [at for piece in pieces for at in range(piece.begin, piece.end)]
        begins = [0, *np.cumsum([len(piece.tokens) for piece in pieces]).tolist()]
        blocks = [self._blocks(piece) for piece in pieces]
        rows = [end - 1 for piece, end in zip(pieces, begins[1:], strict=True) if piece.wanted]
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.array(tokens, np.int64),
            "position_ids": np.array(positions, np.int64),
            "past_lens": np.array([piece.begin for piece in pieces], np.int32),
            "subsequence_begins": np.array(begins, np.int32),
            "block_indices": np.concatenate(blocks),
            "block_indices_begins": np.array([0, *np.cumsum([*map(len, blocks)])], np.int32),
            "max_context_len": np.array(max(piece.end for piece in pieces), np.int32),
            "rows": np.array(rows, np.int64),
        }
        self._request.infer(inputs, share_inputs=True)
        logits: Logits = self._request.get_output_tensor(0).data
        return logits.reshape(len(rows), self.vocabulary)

    def _blocks(self, piece: Piece) -> NDArray[np.int32]:
        first = piece.slot * self._blocks_each
        return np.arange(first, first - (-piece.end // BLOCK), dtype=np.int32)


def _ask_for_rows(model: Any) -> None:
    """Have logits computed for the rows that a new input names, not for every token of a prompt."""
    rows = operations.parameter(openvino.PartialShape([-1]), openvino.Type.i64, name="rows")
    rows.output(0).get_tensor().set_names({"rows"})
    node = model.outputs[0].get_node()
    while node.get_type_name() != "MatMul":
        node = node.input(0).get_source_output().get_node()
    hidden = node.input(0).get_source_output()
    node.input(0).replace_source_output(
        operations.gather(hidden, rows, operations.constant(0)).output(0)
    )
    model.add_parameters([rows])
    model.validate_nodes_and_infer_types()


def _size(node: Any) -> int:
    """How many numbers a constant has that is a matrix: about the parameters of a model."""
    if node.get_type_name() != "Constant" or len(shape := node.get_output_shape(0)) < 2:
        return 0
    return int(np.prod(shape))


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
