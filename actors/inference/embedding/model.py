"""Computing embeddings, in the worker: a model of sentence-transformers on padded rows of ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from r3mes.actors.inference.embedding.files import check_steps, hash_steps
from r3mes.actors.inference.files import check_model
from r3mes.actors.inference.loading import choose_device, first_line, numeric_class
from r3mes.actors.inference.protocol import Load, Loaded
from r3mes.actors.inference.worker import SMALL
from r3mes.errors import EngineError, ModelInvalid

UNUSED = "pooler."
"""Weights that many such models lack and none needs: the classifier's pooling of BERT."""


class Embedder:
    """A loaded model.

    Args:
        module: sentence-transformers' pipeline of steps.
    """

    def __init__(self, module: SentenceTransformer) -> None:
        self._module = module
        self._pad: Any = module.tokenizer.pad

    def embed(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The vectors ``(len(rows), width)`` of rows of token ids."""
        padded = self._pad({"input_ids": [list(row) for row in rows]}, return_tensors="pt")
        device = self._module.device
        features = {name: padded[name].to(device) for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            vectors: Any = self._module.forward(features)["sentence_embedding"]
        found: NDArray[np.float32] = vectors.to(torch.float32).cpu().numpy()
        return found


def open_embedder(load: Load) -> tuple[Embedder, Loaded]:
    """Load the model.

    Raises:
        ModelMissing, ModelInvalid: it is not there, pickled, incomplete, wants code of its own or
            is no model for embeddings.
        EngineError: the device is not there.
    """
    directory = Path(load.path)
    check_model(directory)
    check_steps(directory)
    device = choose_device(load.device)
    try:
        _check_weights(directory)
        module = SentenceTransformer(
            str(directory),
            device=str(device),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        ).eval()
        backend = getattr(module.tokenizer, "backend_tokenizer", None)
    except EngineError:
        raise
    except Exception as error:
        raise ModelInvalid(f"{directory} cannot be loaded: {first_line(error)}") from error
    if backend is None:
        raise ModelInvalid(f"the tokenizer in {directory} has no form that `tokenizers` can read")
    inner: Any = module[0].auto_model
    parameters = sum(parameter.numel() for parameter in module.parameters())
    if load.threads or parameters <= SMALL:
        torch.set_num_threads(load.threads or 1)
    loaded = Loaded(
        hash=hash_steps(directory),
        architecture=type(inner).__name__,
        parameters=parameters,
        dtype="float32",
        device=str(device),
        context=_context(module, load.max_context),
        vocabulary=inner.get_input_embeddings().num_embeddings,
        numeric_class=numeric_class(device, "float32"),
        slots=load.slots,
        tokenizer=backend.to_str(),
        chat_template="",
        special_tokens=(),
        stop_ids=(),
    )
    return Embedder(module), loaded


def _check_weights(directory: Path) -> None:
    """See that none is missing: transformers would fill it with random numbers and a warning."""
    _, report = AutoModel.from_pretrained(
        directory, trust_remote_code=False, use_safetensors=True, output_loading_info=True
    )
    missing = [key for key in report["missing_keys"] if not key.startswith(UNUSED)]
    wrong = [*missing, *(str(key) for key in report["mismatched_keys"])]
    if wrong:
        raise ModelInvalid(f"{directory} lacks {len(wrong)} weights, such as {min(wrong)}")


def _context(module: SentenceTransformer, most: int) -> int:
    inner: Any = module[0].auto_model
    own = (module.max_seq_length, getattr(inner.config, "max_position_embeddings", 0))
    return min(length for length in (*own, most) if length)
