"""Events as they happen, to callers with a WebSocket."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import Field

from r3mes.errors import Forbidden, NotFound, Overloaded
from r3mes.node.events import Events, Happened, Topic
from r3mes.node.rpc.context import Context, Notify, TooSlow
from r3mes.node.rpc.method import method


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A subscription that began.

    Args:
        subscription: its id, in every notification of it.
        cursor: of the newest event; `since` for a later subscription.
    """

    subscription: str
    cursor: str


class NodeEvents:
    """The namespace ``node``, what needs a WebSocket."""

    def __init__(self, events: Events) -> None:
        self._events = events

    @method("node_subscribe", scope="r", errors=(Forbidden, Overloaded))
    async def subscribe(
        self,
        context: Context,
        topics: Annotated[
            list[Topic],
            Field(min_length=1, max_length=8, description="`logs` needs the scope a."),
        ],
        since: Annotated[
            str | None,
            Field(max_length=64, description="A cursor: events after it are sent first."),
        ] = None,
    ) -> Subscribed:
        """Have events sent as they happen; over a WebSocket to `/rpc` only.

        Each comes as a notification `node_event` with `subscription`, `cursor`, `at_ms`, `topic`
        and `data`. Of each topic the last 1000 events are kept for those who come back with the
        cursor of the last event they have seen; if some after it are gone, or the node was
        started anew, an event of the topic `missed` comes first.
        """
        connection = context.websocket()
        if "logs" in topics and "a" not in context.key.scopes:
            raise Forbidden("the topic logs needs the scope 'a'", param="topics")
        last = self._events.last
        place = last if since is None else self._events.place(since)
        follow = partial(self._follow, sorted(set(topics)), place)
        return Subscribed(connection.start(follow), self._events.cursor(last))

    @method("node_unsubscribe", scope="r", errors=(NotFound,))
    async def unsubscribe(
        self, context: Context, subscription: Annotated[str, Field(max_length=64)]
    ) -> None:
        """End a subscription of this connection."""
        if not context.websocket().stop(subscription):
            raise NotFound("this connection has no such subscription", param="subscription")

    async def _follow(
        self, topics: Collection[Topic], place: int | None, subscription: str, notify: Notify
    ) -> None:
        events, number = self._events, place or 0
        gone = events.gone(topics)
        if place is None or gone > number:
            missed: dict[str, object] = {"topic": "missed", "at_ms": None, "data": None}
            start = {"subscription": subscription, "cursor": events.cursor(number)}
            await notify("node_event", missed | start)
        while True:
            if events.gone(topics) > max(number, gone):
                raise TooSlow
            for event in await events.wait_after(number, topics):
                await notify("node_event", self._told(subscription, event))
                number = event.number

    def _told(self, subscription: str, event: Happened) -> dict[str, object]:
        return {
            "subscription": subscription,
            "cursor": self._events.cursor(event.number),
            "at_ms": event.at_ms,
            "topic": event.topic,
            "data": event.data,
        }
