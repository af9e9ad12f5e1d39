"""Traces the requests that ask a model; behind the key, so that no stranger makes a trace."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from r3mes.actors.tracing import Tracer, caller, first_part
from r3mes.node.http.asgi import header

CHAT = "/v1/chat/completions"


class Traced:
    """Begins the trace of a chat, or goes on with that of the application (``traceparent``).

    Source: OpenTelemetry semantic conventions, HTTP server spans; left out: whatever callers
    write, such as their address, their user agent and the query.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app, self._tracer = app, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (scope["type"], scope.get("path"), scope.get("method")) != ("http", CHAT, "POST"):
            await self._app(scope, receive, send)
            return
        asked_in = caller(header(scope, b"traceparent") or "", trusted=True)
        with first_part(self._tracer, f"POST {CHAT}", "server", caller=asked_in) as span:
            span.note({"http.request.method": "POST", "http.route": CHAT})

            async def send_noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.note({"http.response.status_code": message["status"]})
                await send(message)

            await self._app(scope, receive, send_noted)
