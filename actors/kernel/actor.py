"""What an actor is: private state, one mailbox, one task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio

from r3mes.actors.kernel.failure import real_error
from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.errors import Refused

M = TypeVar("M")


class Actor(ABC, Generic[M]):
    """Handles one message at a time.

    Subclasses implement `handle`, and `lifespan` if they own resources or a nursery.  Raising
    `Refused` answers the asker and the actor lives on; any other exception answers the askers of
    everything that was taken up with `ActorCrashed` and ends `run`, which is the supervisor's
    business.  The next incarnation is a new object: what must survive is in the store, not in
    ``self``.
    """

    def __init__(self, mailbox: Mailbox[M]) -> None:
        self.mailbox = mailbox

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open what the actor owns; it is closed however `run` ends."""
        yield

    @abstractmethod
    async def handle(self, message: M) -> None:
        """Deal with one message; an answer may come later, from the actor's own nursery."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until the mailbox is drained or closed."""
        try:
            async with self.lifespan():
                task_status.started()
                await self._receive()
        finally:
            self.mailbox.abandon(None)

    async def _receive(self) -> None:
        try:
            async for message in self.mailbox:
                await self._handle(message)
        except BaseException as error:  # crash boundary: first tell the askers, then die
            self.mailbox.abandon(real_error(error))
            raise

    async def _handle(self, message: M) -> None:
        try:
            await self.handle(message)
        except Exception as error:
            reason = real_error(error)
            if not (isinstance(reason, Refused) and isinstance(message, Ask)):
                raise
            message.refuse(reason)
