"""What happens on the node, for those who listen: numbered, and kept for those who come back.

There is no queue for each listener but one bounded ring for each topic, in which every listener has
a place.  So a listener who is slow costs nothing, and one who was away goes on where it was.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, get_args

import trio

from r3mes.errors import BadRequest

Topic = Literal["status", "peers", "requests", "jobs", "logs"]

KEPT = 1000
"""Events of a topic that are kept; older ones are gone for whoever has not read them."""


@dataclass(frozen=True, slots=True)
class Happened:
    """One event; numbers count all topics together."""

    number: int
    at_ms: int
    topic: Topic
    data: object


class Events:
    """The rings.

    Args:
        now_ms: the wall clock, in unix milliseconds.
        kept: events of each topic that are kept.
    """

    def __init__(self, *, now_ms: Callable[[], int], kept: int = KEPT) -> None:
        self._now_ms = now_ms
        self._boot = secrets.token_hex(4)
        self._rings: dict[Topic, deque[Happened]] = {
            topic: deque(maxlen=kept) for topic in get_args(Topic)
        }
        self._dropped: dict[Topic, int] = dict.fromkeys(self._rings, 0)
        self._more = trio.Event()
        self.last = 0
        """Number of the newest event."""

    def publish(self, topic: Topic, data: object) -> None:
        """Tell all who listen to ``topic``."""
        self.last += 1
        ring = self._rings[topic]
        if len(ring) == ring.maxlen:
            self._dropped[topic] = ring[0].number
        ring.append(Happened(self.last, self._now_ms(), topic, data))
        self._more.set()
        self._more = trio.Event()

    async def wait_after(self, number: int, topics: Collection[Topic]) -> list[Happened]:
        """The kept events of ``topics`` above ``number``, in order, as soon as there is one."""
        while not (found := self._after(number, topics)):
            await self._more.wait()
        return found

    def gone(self, topics: Collection[Topic]) -> int:
        """Number of the newest event of ``topics`` that is not kept any more; 0 if all are."""
        return max(self._dropped[topic] for topic in topics)

    def cursor(self, number: int) -> str:
        """What a listener says to go on after ``number``; good until the node starts again."""
        return f"{self._boot}.{number}"

    def place(self, cursor: str) -> int | None:
        """The number that ``cursor`` stands for; None if it is of an earlier start of the node.

        Raises:
            BadRequest: it never was a cursor of this node.
        """
        boot, _, number = cursor.partition(".")
        if not (number.isascii() and number.isdigit() and len(number) < 20):
            raise BadRequest("this is no cursor", param="since")
        if boot != self._boot:
            return None
        if int(number) > self.last:
            raise BadRequest("this cursor is of an event that was not yet", param="since")
        return int(number)

    def _after(self, number: int, topics: Collection[Topic]) -> list[Happened]:
        found = [one for topic in topics for one in self._rings[topic] if one.number > number]
        return sorted(found, key=lambda one: one.number)
