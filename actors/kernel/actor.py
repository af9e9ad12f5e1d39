"""What an actor is: private state, one mailbox, one task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio

from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.errors import ActorCrashed, Refused

M = TypeVar("M")


class Actor(ABC, Generic[M]):
    """Handles one message at a time.

    Subclasses implement `handle`, and `lifespan` if they own resources.
    Raising `Refused` answers the asker and the actor lives on; any other
    exception answers the asker with `ActorCrashed` and ends `run`, which is the
    supervisor's business.
    """

    def __init__(self, mailbox: Mailbox[M]) -> None:
        self.mailbox = mailbox

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Open what the actor owns; it is closed however `run` ends."""
        yield

    @abstractmethod
    async def handle(self, message: M) -> None:
        """Deal with one message."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with self.lifespan():
            task_status.started()
            async for message in self.mailbox:
                try:
                    await self.handle(message)
                except Refused as error:
                    if not isinstance(message, Ask):
                        raise
                    message.refuse(error)
                except Exception as error:
                    if isinstance(message, Ask):
                        message.refuse(ActorCrashed(f"{self.mailbox.name}: {error!r}"))
                    raise
