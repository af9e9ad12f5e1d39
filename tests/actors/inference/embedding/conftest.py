"""A model for embeddings as tests use it: served by the toy worker, or real."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio

from r3mes.actors.inference.embedding.actor import EmbeddingActor
from r3mes.actors.inference.embedding.client import EmbeddingClient
from r3mes.actors.inference.settings import ModelSettings

TOY_EMBEDDER = (sys.executable, "-P", str(Path(__file__).with_name("toy_embedder.py")))
Toy: TypeAlias = Callable[..., AbstractAsyncContextManager[EmbeddingClient]]


@asynccontextmanager
async def serving(actor: EmbeddingActor) -> AsyncIterator[EmbeddingClient]:
    """Run an actor until its model is ready or has failed, and while the block runs."""
    client = EmbeddingClient(actor)
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        with trio.fail_after(60):
            await client.settled()
        yield client
        nursery.cancel_scope.cancel()


@pytest.fixture
def toy(toy_dir: Path) -> Toy:
    """Serves the toy, with other settings if wanted."""

    def serve_toy(**settings: Any) -> AbstractAsyncContextManager[EmbeddingClient]:
        chosen = ModelSettings("toy", **({"source": str(toy_dir)} | settings))
        return serving(EmbeddingActor(chosen, command=TOY_EMBEDDER))

    return serve_toy
