"""An answer as it is written, over a WebSocket."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from secrets import token_hex
from typing import TypeAlias

import trio

from r3mes.errors import BadRequest
from r3mes.node.http.chat_choices import Choice, Delta, Listener, write_choices
from r3mes.node.http.chat_objects import chunk, figures_of, told_of, usage_of
from r3mes.node.http.keyed_gateway import KeyedGateway
from r3mes.node.http.ports import Gateway
from r3mes.node.rpc.context import SLOW_S, Context, Notify, TooSlow
from r3mes.node.rpc.messages import error_object
from r3mes.node.rpc.method import method
from r3mes.node.rpc.methods.infer import UNANSWERED, InferBody

AHEAD = 16
"""Parts of an answer that may wait for the caller; then the model waits too."""

Writing: TypeAlias = Callable[[Listener], Awaitable[Sequence[Choice]]]
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
        request_id = body.request_id or f"req_{token_hex(12)}"
        gateway = KeyedGateway(self._gateway, context.key)
        openings = [
            gateway.complete(replace(one, request_id=request_id)) for one in body.requests()
        ]
        writing = partial(write_choices, openings, one_call=body.one_call)
        subscription = connection.start(partial(_follow, writing), to_its_end=True)
        return StreamBegun(subscription, request_id)


async def _follow(writing: Writing, subscription: str, notify: Notify) -> None:
    """Write and tell side by side: the place at the model must not hang on who does not read."""
    outlet, inlet = trio.open_memory_channel[tuple[str, Mapping[str, object]]](AHEAD)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write, writing, outlet)
            async for name, told in inlet:
                await notify(name, {"subscription": subscription, **told})
    except* TooSlow:  # found by one of the two, or by both
        raise TooSlow from None


async def _write(writing: Writing, outlet: Outlet) -> None:
    async with outlet:
        try:
            end = await _write_all(writing, outlet)
        except TooSlow:
            raise
        except Exception as error:  # noqa: BLE001  crash boundary: every failure is told
            end = {"error": error_object(error)}
        await outlet.send(("infer_end", end))


async def _write_all(writing: Writing, outlet: Outlet) -> Mapping[str, object]:
    """Send the parts of the answers; what there is to say at their end."""
    choices = await writing(_Teller(outlet))
    answers = [choice.answer for choice in choices]
    return {
        "finish_reason": choices[0].finish_reason,
        "usage": usage_of(answers),
        "r3mes": figures_of(answers),
    }


class _Teller:
    """Sends the parts of the answers as they come; a `Listener`."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._part = partial(chunk, created=int(time.time()))

    async def began(self, choice: Choice) -> None:
        await self._put(self._part(choice, {"role": "assistant", "content": ""}))

    async def wrote(self, choice: Choice, delta: Delta) -> None:
        await self._put(self._part(choice, told_of(delta), None, delta.logprobs))

    async def ended(self, choice: Choice, rest: Delta) -> None:
        await self._put(self._part(choice, {}, choice.finish_reason, rest.logprobs))

    async def _put(self, part: Mapping[str, object]) -> None:
        with trio.move_on_after(SLOW_S) as patience:
            await self._outlet.send(("infer_chunk", {"chunk": part}))
        if patience.cancelled_caught:
            raise TooSlow
