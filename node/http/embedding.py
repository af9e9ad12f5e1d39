"""``POST /v1/embeddings``: which fields count, and OpenAI's object for the vectors.

Source: OpenAI API reference, "Create embeddings"; the official clients ask for base64 (float32,
little-endian) and decode it themselves.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import trio
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from r3mes.node.embedding import Embedded, EmbeddingRequest
from r3mes.node.http.asgi import send_error, send_whole, while_present
from r3mes.node.http.errors import as_r3mes_error
from r3mes.node.http.fields import Encodable, Number, listed

MOST_TEXTS = 2048
MOST_DIMENSIONS = 65_536
TOGETHER = 64
"""Vectors that are written before other tasks have a turn: each takes about 50 µs."""

Encoding: TypeAlias = Literal["float", "base64"]
Texts: TypeAlias = str | list[str] | list[int] | list[list[int]]


def _texts(value: object) -> list[Any]:
    """One list, whatever of OpenAI's four forms it came in."""
    if isinstance(value, str) or _are_ids(value):
        return [value]
    if not isinstance(value, list) or not all(
        isinstance(one, str) or _are_ids(one) for one in value
    ):
        raise PydanticCustomError(
            "input", "input should be a text, a list of texts, a list of token ids or lists of them"
        )
    if not 1 <= len(value) <= MOST_TEXTS:
        raise PydanticCustomError(
            "input", f"{len(value)} texts, and a request has 1 to {MOST_TEXTS}"
        )
    return value


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


class EmbeddingBody(BaseModel):
    """The request as it comes in."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, StringConstraints(min_length=1, max_length=256), Encodable]
    input: Annotated[list[Any], BeforeValidator(_texts, json_schema_input_type=Texts)]
    encoding_format: Encoding = "float"
    dimensions: Annotated[int, Field(ge=1, le=MOST_DIMENSIONS), Number] | None = None
    user: str | None = None

    def request(self) -> EmbeddingRequest:
        """What is asked for."""
        return EmbeddingRequest(self.model, self.input, self.dimensions)

    def ignored(self) -> str:
        """The fields that we do not know."""
        return listed(self.model_extra or {})


class VectorsAnswer(Response):
    """The vectors, when they are there; a caller who goes away needs none.

    Args:
        embed: makes them.
        headers: sent besides our own.
    """

    def __init__(
        self,
        embed: Callable[[], Awaitable[Embedded]],
        headers: Mapping[str, str],
        encoding: Encoding,
    ) -> None:
        super().__init__(headers=dict(headers))
        self._embed, self._more, self._encoding = embed, headers, encoding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_present(receive, send, self._answer)

    async def _answer(self, send: Send) -> None:
        try:
            embedded = await self._embed()
            body = msgspec.json.encode(await vectors_object(embedded, self._encoding))
        except Exception as error:  # noqa: BLE001  crash boundary: every failure has an answer
            await send_error(send, as_r3mes_error(error))
            return
        head = {"content-type": "application/json", **self._more, "x-r3mes-route": "local"}
        await send_whole(send, 200, head, body)


async def vectors_object(embedded: Embedded, encoding: Encoding) -> dict[str, Any]:
    """OpenAI's list of vectors; each is JSON already, so that no one else waits for a thousand."""
    data = []
    for at, vector in enumerate(embedded.vectors):
        if at % TOGETHER == 0:
            await trio.lowlevel.checkpoint()
        raw = vector.astype("<f4").tobytes()
        written: object = (
            base64.b64encode(raw).decode() if encoding == "base64" else vector.tolist()
        )
        data.append(
            {
                "object": "embedding",
                "index": at,
                "embedding": msgspec.Raw(msgspec.json.encode(written)),
            }
        )
    return {
        "object": "list",
        "data": data,
        "model": embedded.model,
        "usage": {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens},
    }
