"""An answer as it is written, over a WebSocket."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from secrets import token_hex
from typing import TypeAlias

import trio

from r3mes.errors import BadRequest
from r3mes.node.http.chat_objects import chunk, figures_of, usage_of
from r3mes.node.http.keyed_gateway import KeyedGateway
from r3mes.node.http.ports import Answer, Gateway
from r3mes.node.rpc.context import SLOW_S, Context, Notify, TooSlow
from r3mes.node.rpc.messages import error_object
from r3mes.node.rpc.method import method
from r3mes.node.rpc.methods.infer import UNANSWERED, InferBody

AHEAD = 16
"""Parts of an answer that may wait for the caller; then the model waits too."""

Opening: TypeAlias = AbstractAsyncContextManager[Answer]
Outlet: TypeAlias = trio.MemorySendChannel[tuple[str, Mapping[str, object]]]


@dataclass(frozen=True, slots=True)
class StreamBegun:
    """An answer that is to come.

    Args:
        subscription: in every notification of it.
        request_id: ends it, with `infer_cancel`.
    """

    subscription: str
    request_id: str


class InferStream:
    """The namespace ``infer``, what needs a WebSocket."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @method("infer_stream", scope="i", errors=UNANSWERED)
    async def stream(self, body: InferBody, context: Context) -> StreamBegun:
        """Continue a chat, and have the answer sent as it is written; over a WebSocket only.

        Each part comes as a notification `infer_chunk` with `subscription` and `chunk`, OpenAI's
        `chat.completion.chunk` object. The last notification is `infer_end`: with
        `finish_reason`, `usage` and `r3mes` (price, receipt, peer) of an answer that came to its
        end, or else with `error`, which has the form of every error. What is wrong with the call
        itself is its answer.

        `infer_cancel` with the `request_id` ends it, and so does closing the connection; an answer
        that is not read for 10 s is given up and the connection closed with 1013. Who reads slowly
        gets all of it: the model waits.
        """
        connection = context.websocket()
        if body.stream is False:
            raise BadRequest("infer_stream streams", do="call infer_complete", param="stream")
        asked = replace(body.request(), request_id=body.request_id or f"req_{token_hex(12)}")
        opening = KeyedGateway(self._gateway, context.key).complete(asked)
        subscription = connection.start(partial(_follow, opening), to_its_end=True)
        return StreamBegun(subscription, asked.request_id)


async def _follow(opening: Opening, subscription: str, notify: Notify) -> None:
    """Write and tell side by side: the place at the model must not hang on who does not read."""
    outlet, inlet = trio.open_memory_channel[tuple[str, Mapping[str, object]]](AHEAD)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write, opening, outlet)
            async for name, told in inlet:
                await notify(name, {"subscription": subscription, **told})
    except* TooSlow:  # found by one of the two, or by both
        raise TooSlow from None


async def _write(opening: Opening, outlet: Outlet) -> None:
    async with outlet:
        try:
            end = await _write_all(opening, outlet)
        except TooSlow:
            raise
        except Exception as error:  # noqa: BLE001  crash boundary: every failure is told
            end = {"error": error_object(error)}
        await outlet.send(("infer_end", end))


async def _write_all(opening: Opening, outlet: Outlet) -> Mapping[str, object]:
    """Send the parts of an answer; what there is to say at its end."""
    part = partial(chunk, created=int(time.time()))
    async with opening as answer:
        await _put(outlet, part(answer, {"role": "assistant", "content": ""}))
        async for text in answer:
            await _put(outlet, part(answer, {"content": text}))
    await _put(outlet, part(answer, {}, answer.finish_reason))
    return {
        "finish_reason": answer.finish_reason,
        "usage": usage_of(answer),
        "r3mes": figures_of(answer),
    }


async def _put(outlet: Outlet, part: Mapping[str, object]) -> None:
    with trio.move_on_after(SLOW_S) as patience:
        await outlet.send(("infer_chunk", {"chunk": part}))
    if patience.cancelled_caught:
        raise TooSlow
