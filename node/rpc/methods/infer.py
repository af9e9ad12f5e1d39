"""Answers: have one written, see what is being written, estimate, cancel."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol

from pydantic import Field

from r3mes.actors.active import UnderWay
from r3mes.actors.gateway import ChatRequest
from r3mes.errors import (
    BadRequest,
    ContextLengthExceeded,
    EngineError,
    ModelNotFound,
    NetworkError,
    NoPeer,
    Overloaded,
    PriceExceeded,
    RequestCancelled,
)
from r3mes.node.estimates import Estimate
from r3mes.node.http.chat_choices import write_choices
from r3mes.node.http.chat_objects import completion
from r3mes.node.http.chat_request import ChatBody, Message, Tokens
from r3mes.node.http.fields import Text
from r3mes.node.http.keyed_gateway import KeyedGateway
from r3mes.node.http.ports import Gateway
from r3mes.node.rpc.context import Context
from r3mes.node.rpc.method import method

RequestId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]


UNANSWERED = (
    ModelNotFound,
    NoPeer,
    Overloaded,
    ContextLengthExceeded,
    PriceExceeded,
    EngineError,
    NetworkError,
    RequestCancelled,
)
"""Why an answer is not written, or not to its end."""


class InferBody(ChatBody):
    """A chat as OpenAI's API takes it, and under which id it can be cancelled."""

    request_id: RequestId | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Whether there was such a request to cancel."""

    cancelled: bool


class Active(Protocol):
    """The requests under way."""

    def all(self) -> list[UnderWay]: ...
    def cancel(self, request_id: str, *, key_id: str | None) -> bool: ...


class Estimates(Protocol):
    """What requests would cost."""

    async def estimate(
        self, model: str, messages: Sequence[Mapping[str, object]], max_tokens: int | None
    ) -> Estimate: ...


class InferMethods:
    """The namespace ``infer``."""

    def __init__(self, gateway: Gateway, active: Active, estimates: Estimates) -> None:
        self._gateway, self._active, self._estimates = gateway, active, estimates

    @method("infer_complete", scope="i", errors=UNANSWERED)
    async def complete(self, body: InferBody, context: Context) -> dict[str, Any]:
        """Continue a chat: OpenAI's body in, its `chat.completion` object out.

        Whoever hangs up cancels it; so does `infer_cancel` with its `request_id`.
        """
        if body.stream:
            raise BadRequest("infer_complete does not stream", param="stream")
        asked = [replace(one, request_id=body.request_id or "") for one in body.requests()]
        created = int(time.time())
        gateway = KeyedGateway(self._gateway, context.key)
        choices = await write_choices(
            [gateway.complete(one) for one in asked], one_call=body.one_call
        )
        return completion(choices, created=created)

    @method("infer_cancel", scope="i")
    async def cancel(self, request_id: RequestId, context: Context) -> Cancelled:
        """End a request of an application, by its `x-request-id` or `request_id`.

        A key without the scope `a` ends only what came with it.
        """
        key = context.key
        anyones = "a" in key.scopes
        return Cancelled(self._active.cancel(request_id, key_id=None if anyones else key.id))

    @method("infer_estimate", scope="i", errors=(ModelNotFound, ContextLengthExceeded))
    async def estimate(
        self,
        model: Annotated[Text, Field(min_length=1, max_length=256)],
        messages: Annotated[list[Message], Field(min_length=1, max_length=2048)],
        context: Context,
        max_tokens: Tokens | None = None,
    ) -> Estimate:
        """What a chat would cost at most, and who would be asked; no model runs for it."""
        plain = [message.plain() for message in messages]
        keyed = KeyedGateway(self._gateway, context.key)
        chosen = await keyed.choose(ChatRequest(model, plain))
        return await self._estimates.estimate(chosen.model, plain, max_tokens)

    @method("infer_active", scope="a")
    async def active(self) -> list[UnderWay]:
        """The requests under way, the oldest first: figures, never what they say."""
        return self._active.all()
