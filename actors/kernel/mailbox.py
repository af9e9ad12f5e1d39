"""Typed mailboxes: the only way one actor talks to another.

A mailbox is a bounded trio memory channel.  It belongs to the *address*, not to
the running actor, so messages queued while an actor restarts are kept; only the
message that was being handled when it crashed is lost (and its asker is told).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, Generic, Self, TypeVar

import trio

from r3mes.errors import ActorStopped, AskTimeout, MailboxFull, R3mesError

M = TypeVar("M")
R = TypeVar("R")


class _Slot(Generic[R]):
    """One-shot answer cell shared by the asker and the actor."""

    __slots__ = ("deadline", "done", "error", "value")

    def __init__(self) -> None:
        self.deadline = inf
        self.done = trio.Event()
        self.error: R3mesError | None = None
        self.value: R | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask(Generic[R]):
    """Base of every message that expects an answer of type ``R``."""

    _slot: _Slot[R] = field(default_factory=_Slot, init=False, repr=False, compare=False)

    @property
    def expired(self) -> bool:
        """True once the asker has given up; the actor may skip the work."""
        return trio.current_time() >= self._slot.deadline

    def reply(self, value: R) -> None:
        """Answer; only the first answer counts."""
        if not self._slot.done.is_set():
            self._slot.value = value
            self._slot.done.set()

    def refuse(self, error: R3mesError) -> None:
        """Answer with an error, raised at the asker."""
        if not self._slot.done.is_set():
            self._slot.error = error
            self._slot.done.set()


class Mailbox(Generic[M]):
    """A bounded, typed address; iterate it to receive.

    Args:
        name: used in logs, metrics and errors.
        capacity: messages queued before senders are slowed down.
    """

    def __init__(self, name: str, *, capacity: int = 64) -> None:
        self.name = name
        self.capacity = capacity
        self._send, self._receive = trio.open_memory_channel[Any](capacity)

    async def tell(self, message: M | Ask[Any]) -> None:
        """Queue ``message``, waiting while the mailbox is full.

        Raises:
            ActorStopped: the mailbox has been closed.
        """
        try:
            await self._send.send(message)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise ActorStopped(f"{self.name}: the mailbox is closed") from None

    def tell_nowait(self, message: M) -> None:
        """Queue ``message`` at once (for network handlers).

        Raises:
            MailboxFull: the mailbox is at capacity; shed the load.
            ActorStopped: the mailbox has been closed.
        """
        try:
            self._send.send_nowait(message)
        except trio.WouldBlock:
            raise MailboxFull(f"{self.name}: {self.capacity} messages wait already") from None
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise ActorStopped(f"{self.name}: the mailbox is closed") from None

    async def ask(self, message: Ask[R], *, timeout: float) -> R:
        """Send ``message`` and wait at most ``timeout`` seconds for its answer.

        Raises:
            AskTimeout: no answer in time, whether still queued or in progress.
            R3mesError: whatever the actor refused the message with.
        """
        slot = message._slot
        slot.deadline = trio.current_time() + timeout
        try:
            with trio.move_on_at(slot.deadline):
                await self.tell(message)
                await slot.done.wait()
        finally:
            slot.deadline = -inf  # nobody listens any more, also when cancelled
        if slot.error is not None:
            raise slot.error
        if not slot.done.is_set():
            raise AskTimeout(
                f"{self.name}: no answer to {type(message).__name__} within {timeout:g} s"
            )
        return slot.value  # type: ignore[return-value]  # set together with done

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        while True:
            try:
                message = await self._receive.receive()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                raise StopAsyncIteration from None
            if not (isinstance(message, Ask) and message.expired):
                return message  # type: ignore[no-any-return]

    def close(self) -> None:
        """Refuse everything still queued; later sends raise `ActorStopped`."""
        self._send.close()
        while True:
            try:
                message = self._receive.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                break
            if isinstance(message, Ask):
                message.refuse(ActorStopped(f"{self.name}: the mailbox is closed"))
        self._receive.close()
