"""Answers in OpenAI's two forms: one object, or a stream of server-sent events.

Both watch for the caller to go away, which cancels the answer wherever it is being written.

Source: WHATWG HTML, section 9.2 (server-sent events: comments keep a connection alive).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec
import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from r3mes.node.http.asgi import send_error, send_whole, while_present
from r3mes.node.http.chat_choices import Choice, Delta, Opening, write_choices
from r3mes.node.http.chat_objects import (
    auto_headers,
    chunk,
    completion,
    figures_of,
    told_of,
    usage_of,
)
from r3mes.node.http.errors import as_r3mes_error, error_object

KEEP_ALIVE_S = 10.0
"""Between two comments while nothing else is sent: proxies and clients drop silent streams."""


class ChatResponse(Response):
    """Base: runs the answers in the caller's presence.

    Args:
        openings: of the answers, one for each choice.
        headers: sent besides our own.
        one_call: what a choice calls after the first is dropped.
    """

    def __init__(
        self, openings: Sequence[Opening], headers: Mapping[str, str], *, one_call: bool
    ) -> None:
        super().__init__(headers=dict(headers))
        self._openings, self._extra, self._one_call = openings, headers, one_call
        self._created = int(time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_present(receive, send, self.answer)

    async def answer(self, send: Send) -> None:
        """Send the whole response, also when it is an error; never raises `Exception`."""
        raise NotImplementedError

    def head(self, choice: Choice) -> dict[str, str]:
        answer = choice.answer
        where = {"x-r3mes-route": answer.route, "x-r3mes-peer": answer.peer}
        return {**self._extra, **where, **auto_headers(answer)}


class WholeAnswer(ChatResponse):
    """The answers as one ``chat.completion`` object, when they are complete."""

    async def answer(self, send: Send) -> None:
        try:
            choices = await write_choices(self._openings, one_call=self._one_call)
        except Exception as error:  # noqa: BLE001  crash boundary: every failure has an answer
            await send_error(send, as_r3mes_error(error))
            return
        head = {"content-type": "application/json", **self.head(choices[0])}
        whole = completion(choices, created=self._created)
        await send_whole(send, 200, head, msgspec.json.encode(whole))


class StreamedAnswer(ChatResponse):
    """The answers as ``chat.completion.chunk`` events, those of several choices as they come.

    The status line waits until somebody has taken the request, so that refusals have a status of
    their own, but at most `KEEP_ALIVE_S`; what fails later is an event.
    """

    def __init__(
        self,
        openings: Sequence[Opening],
        headers: Mapping[str, str],
        *,
        one_call: bool,
        include_usage: bool,
    ) -> None:
        super().__init__(openings, headers, one_call=one_call)
        self._include_usage = include_usage

    async def answer(self, send: Send) -> None:
        self._events = _Events(send, self._extra)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._events.keep_alive)
            try:
                await self._stream()
            except Exception as error:  # noqa: BLE001  crash boundary: every failure is told
                await self._events.fail(error)
            nursery.cancel_scope.cancel()

    async def _stream(self) -> None:
        self._id = ""
        choices = await write_choices(self._openings, self, one_call=self._one_call)
        if self._include_usage:
            answers = [choice.answer for choice in choices]
            usage = self._chunk(choices[0], {}) | {"choices": [], "usage": usage_of(answers)}
            await self._events.send(usage | {"r3mes": figures_of(answers)})
        await self._events.end()

    async def began(self, choice: Choice) -> None:
        await self._events.start(self.head(choice))
        await self._events.send(self._chunk(choice, {"role": "assistant", "content": ""}))

    async def wrote(self, choice: Choice, delta: Delta) -> None:
        await self._events.send(self._chunk(choice, told_of(delta), delta=delta))

    async def ended(self, choice: Choice, rest: Delta) -> None:
        last = self._chunk(choice, {}, choice.finish_reason, delta=rest)
        await self._events.send(last | {"r3mes": figures_of([choice.answer])})

    def _chunk(
        self,
        choice: Choice,
        told: Mapping[str, object],
        finish: str | None = None,
        delta: Delta | None = None,
    ) -> dict[str, object]:
        logprobs = delta.logprobs if delta else ()
        made = chunk(choice, told, finish, logprobs, created=self._created)
        self._id = self._id or str(made["id"])  # one for all choices
        return made | {"id": self._id} | ({"usage": None} if self._include_usage else {})


class _Events:
    """One event stream: starts once, and is kept alive by comments until it ends."""

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self._send, self._headers = send, headers
        self._lock = trio.Lock()
        self._started = False

    async def start(self, headers: Mapping[str, str]) -> None:
        async with self._lock:
            if not self._started:
                self._started = True
                raw = {"content-type": "text/event-stream", "cache-control": "no-store", **headers}
                lines = [(name.encode(), value.encode("latin-1")) for name, value in raw.items()]
                await self._send({"type": "http.response.start", "status": 200, "headers": lines})
                await self._write(b": keep-alive\n\n")

    async def send(self, event: Mapping[str, object]) -> None:
        async with self._lock:
            await self._write(b"data: " + msgspec.json.encode(event) + b"\n\n")

    async def end(self) -> None:
        async with self._lock:
            await self._write(b"data: [DONE]\n\n", more=False)

    async def fail(self, error: Exception) -> None:
        known = as_r3mes_error(error)
        async with self._lock:
            if not self._started:
                self._started = True
                await send_error(self._send, known)
            else:
                event = msgspec.json.encode({"error": error_object(known)})
                await self._write(b"data: " + event + b"\n\n", more=False)

    async def keep_alive(self) -> None:
        while True:
            await trio.sleep(KEEP_ALIVE_S)
            if not self._started:
                await self.start(self._headers)
            else:
                async with self._lock:
                    await self._write(b": keep-alive\n\n")

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
