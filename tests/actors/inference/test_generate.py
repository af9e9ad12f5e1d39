from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from r3mes.actors.inference.actor import ModelActor
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.generation import GenerateJob
from r3mes.actors.inference.settings import ModelSettings

pytestmark = pytest.mark.slow


@asynccontextmanager
async def serving(path: Path, **settings: object) -> AsyncIterator[InferenceClient]:
    actor = ModelActor(ModelSettings("tiny", str(path), **settings))
    client = InferenceClient([actor])
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        with trio.fail_after(30):
            while actor.board.state == "loading":
                await trio.sleep(0.02)
        yield client
        nursery.cancel_scope.cancel()


async def test_an_answer_streams_and_ends_at_its_length(model_dir: Callable[..., Path]) -> None:
    async with serving(model_dir()) as client:
        job = GenerateJob("tiny", [{"role": "user", "content": "hello"}], max_tokens=40)
        async with client.generate(job, deadline_s=5) as generation:
            ids = [token async for chunk in generation for token in chunk.ids]
    assert generation.finish_reason == "length"
    assert generation.output_ids == tuple(ids)
    assert len(ids) == 40
