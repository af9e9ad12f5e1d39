"""A worker for embeddings without torch: a vector counts the ids of its row, by their remainder."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from r3mes.actors.inference.embedding.worker import Embedder, serve
from r3mes.actors.inference.files import hash_model
from r3mes.actors.inference.protocol import Load, Loaded
from r3mes.actors.inference.worker import work

WIDTH = 8
CONTEXT = 32
DEADLY, NAN, SLOW = (ord(letter) for letter in "!?~")


class ToyEmbedder:
    """Dies of ``!``, makes no number of ``?``, sleeps over ``~``."""

    def embed(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        letters = {token - FIRST for row in rows for token in row}
        if DEADLY in letters:
            os._exit(3)
        if SLOW in letters:
            time.sleep(0.3)
        vectors = np.zeros((len(rows), WIDTH), np.float32)
        for at, row in enumerate(rows):
            for token in row:
                vectors[at, token % WIDTH] += 1
            if NAN + FIRST in row:
                vectors[at] = np.nan
        return vectors


FIRST = 5 - ord("!")
"""Id of a printable byte, less the byte: those before it are special."""


def open_toy(load: Load) -> tuple[Embedder, Loaded]:
    loaded = Loaded(
        hash=hash_model(Path(load.path)),
        architecture="Toy",
        parameters=0,
        dtype="none",
        device="cpu",
        context=CONTEXT,
        vocabulary=261,
        numeric_class="toy",
        slots=load.slots,
        tokenizer=(Path(load.path) / "tokenizer.json").read_text(),
        chat_template="",
        special_tokens=(),
        stop_ids=(),
    )
    return ToyEmbedder(), loaded


if __name__ == "__main__":
    work(open_toy, serve)
