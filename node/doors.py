"""The doors through which work comes in, together: shut for a while, or for good."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from r3mes.actors.doorway import Doorway
from r3mes.errors import NotReady


class Doors:
    """Shut while the node drains, and for good when it stops."""

    def __init__(self, doors: Sequence[Doorway]) -> None:
        self._doors = doors
        self.stopped = trio.Event()
        """Set when the node stops."""
        self.shut = False

    @property
    def stopping(self) -> bool:
        return self.stopped.is_set()

    @property
    def inside(self) -> int:
        """Pieces of work that are being done."""
        return sum(door.inside for door in self._doors)

    async def drain(self, seconds: float) -> int:
        """Take no new work; how much is left when all is done or ``seconds`` are over."""
        self._shut()
        with trio.move_on_after(seconds):
            await self.wait_empty()
        return self.inside

    def resume(self) -> None:
        """Take new work again.

        Raises:
            NotReady: the node stops.
        """
        if self.stopping:
            raise NotReady("the node is stopping", do="start it again")
        self.shut = False
        for door in self._doors:
            door.open()

    def stop(self) -> None:
        """The node stops: take no new work any more."""
        self.stopped.set()
        self._shut()

    async def wait_empty(self) -> None:
        """Wait until nothing is inside any of them, or until they are opened again."""
        for door in self._doors:
            if self.shut:
                await door.wait_empty()

    def _shut(self) -> None:
        self.shut = True
        for door in self._doors:
            door.shut()
