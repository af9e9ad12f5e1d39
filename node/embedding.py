"""The model for embeddings, as applications of this node reach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from r3mes.actors.active import Active
from r3mes.actors.doorway import Doorway
from r3mes.actors.inference.embedding.client import EmbeddingClient, Vectors
from r3mes.actors.inference.settings import ModelSettings
from r3mes.actors.observing import Observer, Watched, unobserved
from r3mes.actors.tracing import NO_TRACER, Tracer, first_part
from r3mes.config.load import embedding_name
from r3mes.config.schema import Config
from r3mes.errors import BadRequest, ModelNotFound
from r3mes.node.models import LIBRARY

DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """What an application wants.

    Args:
        texts: texts, or token ids of the model's own tokenizer.
        dimensions: how wide the vectors shall be; None for as wide as the model makes them.
    """

    model: str
    texts: Sequence[str | Sequence[int]]
    dimensions: int | None = None
    key_id: str | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors ``(texts, dimensions)`` of length 1, and how many tokens the texts had."""

    model: str
    vectors: Vectors
    tokens: int


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """The model for embeddings, loaded.

    Args:
        context: most tokens of one text.
        dimensions: of its vectors.
        shortens: whether shorter ones may be asked for.
    """

    id: str
    hash_hex: str
    context: int
    dimensions: int
    shortens: bool


class OwnEmbeddings:
    """Embeds for applications; nothing of it goes to other nodes.

    Args:
        client: the model; None if none is configured.
        shortens: whether vectors may be shortened.
        doorway: counts what is under way, and is closed when the node drains.
        active: lists it, and lets one be cancelled.
        tell: told what happens to requests.
        tracer: keeps traces of them.
    """

    def __init__(
        self,
        client: EmbeddingClient | None,
        *,
        shortens: bool,
        doorway: Doorway,
        active: Active,
        tell: Observer,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._client, self._shortens = client, shortens
        self._doorway, self._active, self._tell, self._tracer = doorway, active, tell, tracer

    def models(self) -> list[EmbeddingModel]:
        """The model, if there is one and it is ready."""
        if self._client is None or (ready := self._client.board.ready) is None:
            return []
        one = EmbeddingModel(
            self._client.name, ready.hash.hex(), ready.context, ready.width, self._shortens
        )
        return [one]

    async def embed(self, request: EmbeddingRequest) -> Embedded:
        """The vectors of some texts.

        Raises:
            ModelNotFound: that is not the name of the model for embeddings.
            NotReady, EngineError: it is not loaded, or died under them.
            BadRequest, ContextLengthExceeded: a text or an option cannot be used.
            Overloaded: there was no time for them.
            RequestCancelled: somebody cancelled it by its id.
        """
        with (
            first_part(self._tracer, "r3mes.embed", "server", or_part=True),
            Watched(self._tell, "api", request.model, operation="embeddings") as watched,
            self._doorway.enter(),
            self._active.enter(watched, request.request_id, request.key_id),
        ):
            client = self._named(request.model)
            watched.model = client.name
            self._check(client, request.dimensions)
            found = await client.embed(request.texts, deadline_s=DEADLINE_S)
            watched.prompt_tokens = found.tokens
            vectors = shortened(found.vectors, request.dimensions)
        return Embedded(client.name, vectors, found.tokens)

    def _named(self, model: str) -> EmbeddingClient:
        client = self._client
        if client is None:
            raise ModelNotFound(
                "this node has no model for embeddings",
                do="name one as embedding.model in the configuration",
                param="model",
            )
        ready = client.board.ready
        if model == client.name or (ready and model == ready.hash.hex()):
            return client
        raise ModelNotFound(
            f"{model[:128]!r} is not the model for embeddings, which is {client.name!r}",
            param="model",
        )

    def _check(self, client: EmbeddingClient, dimensions: int | None) -> None:
        ready = client.board.ready
        if dimensions is None or ready is None or dimensions == ready.width:
            return
        if dimensions > ready.width:
            raise BadRequest(
                f"{client.name} makes vectors of {ready.width} dimensions, not {dimensions}",
                param="dimensions",
            )
        if not self._shortens:
            raise BadRequest(
                f"vectors of {client.name} may not be shortened to {dimensions} dimensions",
                do="leave dimensions out; if the model was trained for it, the operator sets "
                "embedding.shortens",
                param="dimensions",
            )


NO_EMBEDDINGS = OwnEmbeddings(
    None, shortens=False, doorway=Doorway("requests"), active=Active(), tell=unobserved
)
"""Of a node that has no such model."""


def shortened(vectors: Vectors, dimensions: int | None) -> Vectors:
    """The beginnings of vectors, at length 1 again.

    Source: Kusupati et al. 2022, Matryoshka representation learning.
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    shorter: Vectors = cut / np.maximum(lengths, np.finfo(np.float32).tiny)
    return shorter


def embedding_settings(config: Config) -> ModelSettings | None:
    """What the engine is told of the model for embeddings; None if none is configured."""
    embedding, name = config.embedding, embedding_name(config.embedding)
    if embedding.model is None or name is None:
        return None
    return ModelSettings(
        name=name,
        source=embedding.model,
        revision=embedding.revision or "main",
        library=config.node.datadir / LIBRARY,
        engine="torch",
        device="cuda" if config.engine.require == "cuda" else config.engine.device,
        dtype="float32",
        max_context=embedding.max_context,
        memory_bytes=config.engine.memory_bytes,
        queue=embedding.queue,
    )
