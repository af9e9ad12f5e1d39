"""Counts who is inside, and closes behind the last: how a node drains.

A node that stops lets the answers in flight end whole and takes no new ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from r3mes.errors import NotReady


class Doorway:
    """One for each way in: requests of applications, requests of peers."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._closed = False
        self._empty = trio.Event()
        self.inside = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold a place for one piece of work.

        Raises:
            NotReady: the node is stopping.
        """
        if self._closed:
            raise NotReady(f"the node is stopping and takes no new {self._what}", retry_after_s=5.0)
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
            if self._closed and not self.inside:
                self._empty.set()

    async def close(self) -> None:
        """Let nobody in any more and wait until nobody is inside."""
        self._closed = True
        if self.inside:
            await self._empty.wait()
