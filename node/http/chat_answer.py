"""An answer in OpenAI's two forms: one object, or a stream of server-sent events.

Both watch for the caller to go away, which cancels the answer wherever it is being written.

Source: WHATWG HTML, section 9.2 (server-sent events: comments keep a connection alive).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

import msgspec
import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from r3mes.node.http.asgi import send_error, send_whole, while_present
from r3mes.node.http.chat_objects import chunk, completion, figures_of, usage_of
from r3mes.node.http.errors import as_r3mes_error, error_object
from r3mes.node.http.ports import Answer

KEEP_ALIVE_S = 10.0
"""Between two comments while nothing else is sent: proxies and clients drop silent streams."""


class ChatResponse(Response):
    """Base: runs the answer in the caller's presence.

    Args:
        opening: entering it finds somebody who answers; leaving it early cancels the answer.
        headers: sent besides our own.
    """

    def __init__(
        self, opening: AbstractAsyncContextManager[Answer], headers: Mapping[str, str]
    ) -> None:
        super().__init__(headers=dict(headers))
        self._opening, self._extra = opening, headers
        self._created = int(time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_present(receive, send, self.answer)

    async def answer(self, send: Send) -> None:
        """Send the whole response, also when it is an error; never raises `Exception`."""
        raise NotImplementedError

    def head(self, answer: Answer) -> dict[str, str]:
        return {**self._extra, "x-r3mes-route": answer.route, "x-r3mes-peer": answer.peer}


class WholeAnswer(ChatResponse):
    """The answer as one ``chat.completion`` object, when it is complete."""

    async def answer(self, send: Send) -> None:
        try:
            async with self._opening as answer:
                text = "".join([delta async for delta in answer])
        except Exception as error:  # noqa: BLE001  crash boundary: every failure has an answer
            await send_error(send, as_r3mes_error(error))
            return
        head = {"content-type": "application/json", **self.head(answer)}
        whole = completion(answer, text, created=self._created)
        await send_whole(send, 200, head, msgspec.json.encode(whole))


class StreamedAnswer(ChatResponse):
    """The answer as ``chat.completion.chunk`` events.

    The status line waits until somebody has taken the request, so that refusals have a status of
    their own, but at most `KEEP_ALIVE_S`; what fails later is an event.
    """

    def __init__(
        self,
        opening: AbstractAsyncContextManager[Answer],
        headers: Mapping[str, str],
        *,
        include_usage: bool,
    ) -> None:
        super().__init__(opening, headers)
        self._include_usage = include_usage

    async def answer(self, send: Send) -> None:
        events = _Events(send, self._extra)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(events.keep_alive)
            try:
                await self._stream(events)
            except Exception as error:  # noqa: BLE001  crash boundary: every failure is told
                await events.fail(error)
            nursery.cancel_scope.cancel()

    async def _stream(self, events: _Events) -> None:
        async with self._opening as answer:
            await events.start(self.head(answer))
            await events.send(self._chunk(answer, {"role": "assistant", "content": ""}))
            async for delta in answer:
                await events.send(self._chunk(answer, {"content": delta}))
        last = self._chunk(answer, {}, answer.finish_reason)
        await events.send(last | {"r3mes": figures_of(answer)})
        if self._include_usage:
            usage = self._chunk(answer, {}) | {"choices": [], "usage": usage_of(answer)}
            await events.send(usage | {"r3mes": figures_of(answer)})
        await events.end()

    def _chunk(
        self, answer: Answer, delta: Mapping[str, str], finish: str | None = None
    ) -> dict[str, object]:
        made = chunk(answer, delta, finish, created=self._created)
        return made | ({"usage": None} if self._include_usage else {})


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
