"""Typed mailboxes: the only way one actor talks to another.

A mailbox is a bounded trio memory channel.  It belongs to the *address*, not to the running
actor, so messages queued while an actor restarts are kept; only those that were being handled
when it crashed are lost (and their askers are told).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, Generic, Self, TypeVar

import trio

from r3mes.errors import ActorCrashed, ActorStopped, AskTimeout, MailboxFull, NotReady, R3mesError

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
    """Base of every message that expects an answer of type ``R``; each may be asked once."""

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


@dataclass(frozen=True, slots=True)
class MailboxStatistics:
    """A mailbox at one moment; the counters never go down.

    Args:
        name: the mailbox.
        depth: messages that wait now.
        capacity: how many may wait before senders are slowed down or turned away.
        peak: the largest depth so far.
        received: messages that the actor has taken up.
        refused: messages turned away because the mailbox was full, draining or closed.
        expired: asks dropped unrun because their asker had given up.
    """

    name: str
    depth: int
    capacity: int
    peak: int
    received: int
    refused: int
    expired: int


class Mailbox(Generic[M]):
    """A bounded, typed address; iterate it to receive.

    Args:
        name: used in logs, metrics and errors.
        capacity: messages queued before senders are slowed down (`tell`, `ask`) or turned away
            (`tell_nowait`, `ask` with ``shed``).
    """

    def __init__(self, name: str, capacity: int = 64) -> None:
        self.name = name
        self.capacity = capacity
        self._send, self._receive = trio.open_memory_channel[Any](capacity)
        self._taken: set[_Slot[Any]] = set()  # taken up, not answered, and the asker still waits
        self._closed = False
        self._peak = self._received = self._refused = self._expired = 0

    async def tell(self, message: M | Ask[Any]) -> None:
        """Queue ``message``, waiting while the mailbox is full.

        Raises:
            NotReady: the mailbox drains: what it has is finished, nothing new is taken.
            ActorStopped: the mailbox has been closed.
        """
        try:
            await self._send.send(message)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise self._unavailable() from None
        self._note_depth()

    def tell_nowait(self, message: M | Ask[Any]) -> None:
        """Queue ``message`` at once (for network handlers).

        Raises:
            MailboxFull: the mailbox is at capacity; shed the load.
            NotReady: the mailbox drains.
            ActorStopped: the mailbox has been closed.
        """
        try:
            self._offer(message)
        except trio.WouldBlock:
            self._refused += 1
            raise MailboxFull(f"{self.name}: {self.capacity} messages wait already") from None

    async def ask(self, message: Ask[R], *, timeout: float, shed: bool = False) -> R:
        """Send ``message`` and wait at most ``timeout`` seconds for its answer.

        At most once: the kernel never repeats a message.  After `ActorCrashed` or `AskTimeout`
        it is unknown whether the work was done, so callers repeat only what is idempotent.

        Args:
            message: asked once; build a new one to repeat it.
            timeout: seconds, finite; an ask that outlives it in the queue is dropped unrun.
            shed: fail at once when the mailbox is full (for work that comes from the network)
                rather than wait for room.

        Raises:
            AskTimeout: no answer in time, whether still queued or in progress.
            ActorCrashed: the actor died while it handled the message.
            MailboxFull: ``shed`` was asked for and the mailbox is at capacity.
            NotReady: the mailbox drains.
            ActorStopped: the mailbox has been closed.
            R3mesError: whatever the actor refused the message with.
        """
        slot = message._slot
        if slot.deadline != inf or not timeout < inf:
            raise ValueError(f"{self.name}: each message is asked once, with a finite timeout")
        slot.deadline = trio.current_time() + timeout
        try:
            with trio.CancelScope(deadline=slot.deadline):
                if shed:
                    self.tell_nowait(message)
                else:
                    await self._put(message)
                await slot.done.wait()
        finally:
            slot.deadline = -inf  # nobody listens any more, also when cancelled
            self._taken.discard(slot)
        if slot.error is not None:
            raise slot.error
        if not slot.done.is_set():
            what = type(message).__name__
            raise AskTimeout(f"{self.name}: no answer to {what} within {timeout:g} s")
        return slot.value  # type: ignore[return-value]  # set together with done

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        while True:
            try:
                message = await self._receive.receive()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                raise StopAsyncIteration from None
            if not isinstance(message, Ask):
                break
            if not message.expired:
                self._take(message._slot)
                break
            self._expired += 1
        self._received += 1
        return message  # type: ignore[no-any-return]

    def abandon(self, error: BaseException | None) -> None:
        """Tell the askers of all that was taken up: the actor died of ``error`` (None: stopped)."""
        for slot in self._taken:
            if not slot.done.is_set():
                slot.error = self._lost(error)
                slot.done.set()
        self._taken.clear()

    def drain(self) -> None:
        """Take nothing new; iteration ends after what is queued."""
        self._send.close()

    def close(self) -> None:
        """Refuse everything still queued; later sends raise `ActorStopped`."""
        self._closed = True
        self._send.close()
        while True:
            try:
                message = self._receive.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                break
            if isinstance(message, Ask):
                message.refuse(self._unavailable())
        self._receive.close()

    def statistics(self) -> MailboxStatistics:
        """The figures of this moment."""
        depth = 0 if self._closed else self._receive.statistics().current_buffer_used
        return MailboxStatistics(
            self.name,
            depth,
            self.capacity,
            self._peak,
            self._received,
            self._refused,
            self._expired,
        )

    async def _put(self, message: Ask[Any]) -> None:
        try:
            self._offer(message)  # a third faster than `tell`: one pass of the scheduler less
        except trio.WouldBlock:
            await self.tell(message)

    def _offer(self, message: M | Ask[Any]) -> None:
        try:
            self._send.send_nowait(message)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise self._unavailable() from None
        self._note_depth()

    def _take(self, slot: _Slot[Any]) -> None:
        if slot.deadline != inf:  # an `Ask` that was told has nobody who waits
            self._taken.add(slot)

    def _note_depth(self) -> None:
        self._peak = max(self._peak, self._receive.statistics().current_buffer_used)

    def _unavailable(self) -> R3mesError:
        self._refused += 1
        if self._closed:
            return ActorStopped(f"{self.name}: the mailbox is closed")
        return NotReady(f"{self.name}: draining")

    def _lost(self, error: BaseException | None) -> R3mesError:
        if error is None:
            return ActorStopped(f"{self.name}: stopped before it had answered")
        # The type only: an answer may travel far, and a message may hold secrets.
        return ActorCrashed(f"{self.name}: died of {type(error).__name__} before it had answered")
