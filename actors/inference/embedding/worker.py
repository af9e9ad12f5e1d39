"""The worker process for embeddings: ``python -m r3mes.actors.inference.embedding.worker``.

As confined as the one that writes answers, whose frame it uses: rows of token ids come in, vectors
go out, one batch after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from r3mes.actors.inference.pipes import say
from r3mes.actors.inference.protocol import (
    Embed,
    Embedded,
    Load,
    Loaded,
    Ping,
    Pong,
    unpack_ids,
)
from r3mes.actors.inference.worker import Inbox, work


class Embedder(Protocol):
    """A loaded model."""

    def embed(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The vectors ``(len(rows), width)`` of rows of token ids."""
        ...


def serve(embedder: Embedder, loaded: Loaded, inbox: Inbox, out: BinaryIO) -> None:
    """Embed what comes; a sign of life is given between two batches."""
    while True:
        match inbox.get():
            case Embed(id=batch, rows=rows):
                vectors = embedder.embed([unpack_ids(row) for row in rows])
                width = vectors.shape[1]
                say(out, Embedded(batch, width, vectors.astype("<f4").tobytes()))
            case Ping(number=number):
                say(out, Pong(number, running=0, free_slots=1, gpu_bytes=0))
            case command:
                raise TypeError(f"{type(command).__name__} is not for embeddings")


def open_torch(load: Load) -> tuple[Embedder, Loaded]:
    """Torch and sentence-transformers are imported here, where nothing can be reached any more."""
    from r3mes.actors.inference.embedding.model import open_embedder

    return open_embedder(load)


if __name__ == "__main__":
    work(open_torch, serve)
