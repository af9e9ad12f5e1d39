"""Counts who is inside, and closes behind the last: how a node drains.

A node that stops lets the answers in flight end whole and takes no new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from r3mes.errors import NotReady


class Doorway:
    """One for each way in: requests of applications, requests of peers.

    Args:
        what: comes in here.
        admit: raises why nobody can be let in now, such as a locked wallet.
    """

    def __init__(self, what: str, admit: Callable[[], None] = lambda: None) -> None:
        self._what, self._admit = what, admit
        self._shut = False
        self._empty = trio.Event()
        self.inside = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold a place for one piece of work.

        Raises:
            NotReady: it is shut.
            R3mesError: as ``admit`` says.
        """
        if self._shut:
            raise NotReady(f"the node drains and takes no new {self._what}")
        self._admit()
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
            self._settle()

    def shut(self) -> None:
        """Let nobody in any more."""
        self._shut = True
        self._settle()

    def open(self) -> None:
        """Let people in again; nobody waits for it to be empty any longer."""
        if self._shut:
            self._shut = False
            self._empty.set()
            self._empty = trio.Event()

    def _settle(self) -> None:
        if self._shut and not self.inside:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until it is shut and nobody is inside, or until it is opened again."""
        await self._empty.wait()
