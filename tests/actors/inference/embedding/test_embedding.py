"""The model for embeddings with its worker process: batches, bounds, deadlines, deaths."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import trio
import trio.testing

from r3mes.actors.inference.embedding.client import EmbeddingClient
from r3mes.errors import (
    BadRequest,
    ContextLengthExceeded,
    EngineCrashed,
    EngineError,
    Overloaded,
    R3mesError,
)
from tests.actors.inference.embedding.conftest import Toy


async def test_vectors_come_in_the_order_of_the_texts(toy: Toy) -> None:
    texts = ["abc" * 9, "a", "bb", "a" * 20] * 30
    async with toy() as client:
        found = await client.embed(texts, deadline_s=10)
        again = [(await client.embed([text], deadline_s=10)).vectors[0] for text in texts[:4]]
    assert found.tokens == sum(map(len, texts))
    assert found.vectors.shape == (120, 8)
    assert np.array_equal(found.vectors[:4], np.stack(again))


async def test_token_ids_are_taken_as_they_are(toy: Toy) -> None:
    async with toy() as client:
        tokenizer = client.board.ready.tokenizer  # type: ignore[union-attr]
        ids = tokenizer.encode("hello").ids
        found = await client.embed(["hello", ids], deadline_s=10)
    assert np.array_equal(found.vectors[0], found.vectors[1])


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("", BadRequest, "text 1 is empty"),
        ("\ud800", BadRequest, "surrogate"),
        ([261], BadRequest, "token id"),
        ([-1], BadRequest, "token id"),
        ("x" * 33, ContextLengthExceeded, "33 tokens"),
        ("x" * 100_000, ContextLengthExceeded, "100000 bytes"),
    ],
    ids=["empty", "surrogate", "unknown id", "negative id", "long", "very long"],
)
async def test_what_cannot_be_embedded_is_refused_before_work(
    toy: Toy, text: str | list[int], kind: type[R3mesError], says: str
) -> None:
    async with toy() as client:
        with pytest.raises(kind, match=says) as caught:
            await client.embed(["good", text], deadline_s=10)
    assert caught.value.param == "input"


async def test_a_long_text_can_be_cut_instead(toy: Toy) -> None:
    async with toy() as client:
        found = await client.embed(["ab" * 60_000], deadline_s=10, cut=True)
    assert found.tokens == 32


async def test_the_culprit_is_told_and_others_are_embedded_by_the_next_worker(toy: Toy) -> None:
    ended: dict[str, object] = {}

    async def ask(client: EmbeddingClient, text: str) -> None:
        try:
            ended[text] = (await client.embed([text], deadline_s=30)).tokens
        except EngineError as error:
            ended[text] = type(error)

    async with toy() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, client, "~")  # so that the others come together
            await trio.testing.wait_all_tasks_blocked()
            for text in ("good", "bad!", "fine"):
                nursery.start_soon(ask, client, text)
    assert ended == {"~": 1, "good": 4, "fine": 4, "bad!": EngineCrashed}
    assert client.board.restarts == 2


async def test_a_killed_worker_is_replaced(toy: Toy) -> None:
    async with toy() as client:
        assert client.board.pid
        os.kill(client.board.pid, signal.SIGKILL)
        while client.board.state == "ready":
            await client.board.changed.wait()
        assert client.board.state == "restarting"
        assert (await client.embed(["a"], deadline_s=30)).tokens == 1


async def test_too_many_and_too_late_are_refused(toy: Toy) -> None:
    refused: list[str] = []

    async def ask(client: EmbeddingClient, deadline_s: float) -> None:
        try:
            await client.embed(["~"], deadline_s=deadline_s)
        except Overloaded as error:
            refused.append(error.detail)

    async with toy(queue=2) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, client, 30)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                nursery.start_soon(ask, client, 30)
        with pytest.raises(Overloaded):
            await client.embed(["~"], deadline_s=0.05)
        assert (await client.embed(["a"], deadline_s=30)).tokens == 1
    assert len(refused) == 1
    assert "2 requests wait" in refused[0]


async def test_what_is_no_number_is_an_error_of_the_model(toy: Toy) -> None:
    async with toy() as client:
        with pytest.raises(EngineError, match="no numbers"):
            await client.embed(["what?"], deadline_s=10)


async def test_a_model_that_is_none_fails_and_says_why(toy: Toy) -> None:
    async with toy(source="/nowhere") as client:
        with pytest.raises(EngineError, match="no directory"):
            await client.embed(["a"], deadline_s=10)
    assert client.board.state == "failed"
