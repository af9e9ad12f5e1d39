"""The model for embeddings as the node offers it: by name, at the right width, counted."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from r3mes.actors.active import Active
from r3mes.actors.doorway import Doorway
from r3mes.actors.inference.embedding.actor import Board, Ready
from r3mes.actors.inference.embedding.client import EmbeddingClient, Embeddings
from r3mes.actors.observing import Ended
from r3mes.errors import BadRequest, ModelNotFound, NotReady
from r3mes.node.embedding import NO_EMBEDDINGS, EmbeddingRequest, OwnEmbeddings, shortened


class SmallClient:
    name = "vectors"

    def __init__(self) -> None:
        ready = Ready(b"h" * 32, 4, 256, 100, 1000, Tokenizer(models.BPE()))
        self.board = Board("ready", ready)

    async def embed(self, texts: Any, *, deadline_s: float) -> Embeddings:
        return Embeddings(np.array([[0.6, 0.0, 0.8, 0.0]] * len(texts), np.float32), 3)


def offered(*, shortens: bool = True, doorway: Doorway | None = None) -> tuple[Any, list[Any]]:
    told: list[Any] = []
    client = cast(EmbeddingClient, SmallClient())
    return OwnEmbeddings(
        client,
        shortens=shortens,
        doorway=doorway or Doorway("requests"),
        active=Active(),
        tell=told.append,
    ), told


async def test_what_is_asked_for_is_counted() -> None:
    own, told = offered()
    found = await own.embed(EmbeddingRequest("vectors", ["Hi"]))
    assert found.vectors.shape == (1, 4)
    (ended,) = told
    assert isinstance(ended, Ended)
    assert (ended.model, ended.outcome, ended.prompt_tokens) == ("vectors", "ok", 3)


async def test_shorter_vectors_have_length_one_too() -> None:
    own, _ = offered()
    found = await own.embed(EmbeddingRequest(("68" * 32), ["Hi"], dimensions=2))
    assert found.vectors.tolist() == [[1.0, 0.0]]
    assert shortened(np.zeros((1, 4), np.float32), 2).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(("dimensions", "shortens"), [(5, True), (3, False)])
async def test_widths_that_there_are_not(dimensions: int, shortens: bool) -> None:
    own, told = offered(shortens=shortens)
    with pytest.raises(BadRequest) as caught:
        await own.embed(EmbeddingRequest("vectors", ["Hi"], dimensions=dimensions))
    assert caught.value.param == "dimensions"
    assert told[0].outcome == "refused"


async def test_other_models_and_no_model() -> None:
    own, _ = offered()
    with pytest.raises(ModelNotFound, match="is not the model for embeddings"):
        await own.embed(EmbeddingRequest("builtin", ["Hi"]))
    with pytest.raises(ModelNotFound) as caught:
        await NO_EMBEDDINGS.embed(EmbeddingRequest("vectors", ["Hi"]))
    assert "embedding.model" in caught.value.do
    assert NO_EMBEDDINGS.models() == []


async def test_a_node_that_drains_takes_none() -> None:
    doorway = Doorway("requests")
    own, _ = offered(doorway=doorway)
    doorway.shut()
    with pytest.raises(NotReady):
        await own.embed(EmbeddingRequest("vectors", ["Hi"]))
