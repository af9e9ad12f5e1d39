"""Counts answers by route, method and status; the outermost layer, so that it sees refusals too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Heard: TypeAlias = Callable[[str, str, int], None]
"""Told of an answer: route, method, status."""
OTHER = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
GONE = 499
"""The status of an answer whose caller went away before it began; nginx has it so."""


def unheard(route: str, method: str, status: int) -> None:
    """Nobody counts."""


class Counted:
    """Tells ``heard`` of every answer.

    Args:
        routes: of the application; a path of none of them counts as `OTHER`, so that strangers
            cannot make up labels.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], heard: Heard) -> None:
        self._app, self._heard = app, heard
        self._routes = [route for route in routes if isinstance(route, Route)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = GONE

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            method = scope["method"] if scope["method"] in METHODS else OTHER
            self._heard(self._route(scope), method, status)

    def _route(self, scope: Scope) -> str:
        for route in self._routes:
            if route.matches(scope)[0] is not Match.NONE:
                return route.path
        return OTHER
