"""Vectors of texts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from r3mes.errors import (
    ContextLengthExceeded,
    EngineError,
    ModelNotFound,
    Overloaded,
    WalletLocked,
)
from r3mes.node.http.embedding import EmbeddingBody, vectors_object
from r3mes.node.http.keyed_gateway import KeyedGateway
from r3mes.node.http.ports import Embeddings, Gateway
from r3mes.node.rpc.context import Context
from r3mes.node.rpc.method import method
from r3mes.node.rpc.methods.infer import RequestId

UNEMBEDDED = (ModelNotFound, Overloaded, ContextLengthExceeded, EngineError, WalletLocked)


class EmbedBody(EmbeddingBody):
    """Texts as OpenAI's API takes them, and under which id the call can be cancelled."""

    request_id: RequestId | None = None


class InferEmbed:
    """The namespace ``infer``, what needs a model for embeddings."""

    def __init__(self, gateway: Gateway, embeddings: Embeddings) -> None:
        self._gateway, self._embeddings = gateway, embeddings

    @method("infer_embed", scope="i", errors=UNEMBEDDED)
    async def embed(self, body: EmbedBody, context: Context) -> dict[str, Any]:
        """Make vectors of texts: OpenAI's body for embeddings in, its list of vectors out.

        This node's own model does it, `embedding.model` in the configuration.
        """
        KeyedGateway(self._gateway, context.key).check(body.model)
        asked = replace(body.request(), key_id=context.key.id, request_id=body.request_id or "")
        return await vectors_object(await self._embeddings.embed(asked), body.encoding_format)
