"""One model: who may wait, and whose turn it is.

The actor decides about requests and passes them to a worker process that its keeper keeps alive.
A request that a worker died under is told at once; those that wait go on with the next worker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

import trio

from r3mes.actors.inference.admission import Admission
from r3mes.actors.inference.generation import Ticket
from r3mes.actors.inference.keeper import Keeper
from r3mes.actors.inference.manifest import Manifest, manifest_of
from r3mes.actors.inference.process import COMMAND
from r3mes.actors.inference.protocol import (
    Cancel,
    Ended,
    Loaded,
    LoadFailed,
    Pong,
    Report,
    Wrote,
    unpack_ids,
)
from r3mes.actors.inference.settings import ModelSettings
from r3mes.actors.inference.text import Text
from r3mes.actors.kernel.actor import Actor
from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.errors import EngineCrashed, EngineError, ModelInvalid, Overloaded


@dataclass(frozen=True, slots=True)
class Enqueue(Ask[None]):
    """Give this request a place in the queue."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Nobody reads this answer any more."""

    id: int


Message: TypeAlias = Enqueue | Withdraw


@dataclass(frozen=True, slots=True)
class Ready:
    """What a loaded model offers."""

    manifest: Manifest
    text: Text
    vocabulary: int
    slots: int


@dataclass(slots=True)
class Board:
    """What the actor lets others see without asking; it alone writes here.

    Args:
        slots: answers that can be written at the same time.
        admission: who may wait.
        state: ``loading``, ``ready``, ``restarting`` (requests wait) or ``failed``.
        ready: set once a worker has loaded the model, kept while the next one starts.
        error: why there is no worker now.
        losses: workers lost so far, by the code of the error.
        load_s: seconds without a worker before the present one was ready.
        pid: of the worker.
    """

    slots: int
    admission: Admission
    state: str = "loading"
    ready: Ready | None = None
    error: EngineError | None = None
    waiting: int = 0
    running: int = 0
    losses: Counter[str] = field(default_factory=Counter)
    load_s: float | None = None
    pid: int | None = None
    changed: trio.Event = field(default_factory=trio.Event)

    def check_room(self, patience_s: float) -> None:
        """Let a request in that is worthless unless it has begun in ``patience_s`` seconds.

        Raises:
            Overloaded: as `Admission.check` finds.
        """
        self.admission.check(
            waiting=self.waiting,
            running=self.running,
            slots=self.slots,
            patience_s=patience_s,
            loading=self.state != "ready",
        )

    @property
    def restarts(self) -> int:
        return self.losses.total()

    def turn(self, state: str, error: EngineError | None = None) -> None:
        """Enter a state and wake those who wait for one."""
        self.state, self.error = state, error
        self.changed.set()
        self.changed = trio.Event()


class ModelActor(Actor[Message]):
    """Serves one model, through `r3mes.actors.inference.client.InferenceClient`.

    Args:
        settings: which model, and within which limits.
        command: the worker's program and arguments.
    """

    def __init__(self, settings: ModelSettings, command: Sequence[str] = COMMAND) -> None:
        super().__init__(Mailbox(f"model {settings.name}", capacity=settings.queue + 16))
        self.settings = settings
        self.board = Board(settings.slots, Admission(settings.queue))
        self._worker_command = command

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self._waiting: dict[int, Ticket] = {}  # first come, first served
        self._running: dict[int, Ticket] = {}
        self._keeper = Keeper(self.settings, self, self._worker_command)
        self._without_worker_since = trio.current_time()
        self.board.turn("loading")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keeper.run)
                yield
                nursery.cancel_scope.cancel()
        finally:
            stopped = EngineCrashed("the model was stopped")
            self._drop(self._waiting, stopped)
            self._drop(self._running, stopped)

    async def handle(self, message: Message) -> None:
        match message:
            case Enqueue(ticket=ticket):
                self._admit(ticket)
                self._dispatch()
                message.reply(None)
            case Withdraw(id=ticket_id):
                self._withdraw(ticket_id)
            case _:
                assert_never(message)

    def _admit(self, ticket: Ticket) -> None:
        self.board.check_room(ticket.deadline - trio.current_time())
        self._waiting[ticket.start.id] = ticket

    def _withdraw(self, ticket_id: int) -> None:
        if ticket := self._waiting.pop(ticket_id, None):
            ticket.end("cancelled")
        elif ticket_id in self._running:
            self._keeper.send(Cancel(ticket_id))  # its slot is free when the worker says so
        self._count()

    def _dispatch(self) -> None:
        """Begin what there are slots for."""
        now = trio.current_time()
        while self._keeper.up and self._waiting and len(self._running) < self.settings.slots:
            ticket = self._waiting.pop(next(iter(self._waiting)))
            if now > ticket.deadline:
                ticket.end(error=Overloaded("its turn came too late", retry_after_s=1))
                continue
            self._running[ticket.start.id] = ticket
            ticket.begin()
            self._keeper.send(ticket.start)
        self._count()

    def _drop(self, tickets: dict[int, Ticket], error: EngineError) -> None:
        for ticket in tickets.values():
            ticket.end(error=error)
        tickets.clear()
        self._count()

    def _count(self) -> None:
        self.board.waiting, self.board.running = len(self._waiting), len(self._running)

    # What the keeper tells: `r3mes.actors.inference.keeper.Employer`

    async def loaded(self, loaded: Loaded, pid: int) -> None:
        text = await trio.to_thread.run_sync(Text, loaded)
        manifest = manifest_of(self.settings.name, loaded)
        before = self.board.ready
        if before is not None and before.manifest.hash != manifest.hash:
            self._drop(self._waiting, EngineCrashed("the model's files have changed"))
        self.board.ready = Ready(manifest, text, loaded.vocabulary, loaded.slots)
        self.board.pid = pid
        self.board.load_s = trio.current_time() - self._without_worker_since
        self.board.admission.loaded(self.board.load_s)
        self.board.turn("ready")
        self._dispatch()

    def lost(self, error: EngineError) -> None:
        under = error if isinstance(error, EngineCrashed) else EngineCrashed(error.detail)
        self._drop(self._running, under)
        self._without_worker_since = trio.current_time()
        self.board.pid = None
        self.board.losses[error.kind.code] += 1
        if isinstance(error, ModelInvalid):
            self.board.ready = None  # and no further worker comes
        if self.board.ready is None:
            self._drop(self._waiting, error)
        self.board.turn("restarting" if self.board.ready else "failed", error)

    def heard(self, report: Report) -> None:
        match report:
            case Wrote(id=ticket_id, position=position, ids=packed):
                self._wrote(ticket_id, position, unpack_ids(packed))
            case Ended(id=ticket_id, reason=reason):
                if ticket := self._running.pop(ticket_id, None):
                    self.board.admission.served(trio.current_time() - ticket.began_at)
                    ticket.end(reason)
                self._dispatch()
            case Pong():
                pass
            case Loaded() | LoadFailed():
                raise EngineCrashed("the worker loaded twice")
            case _:
                assert_never(report)

    def _wrote(self, ticket_id: int, position: int, ids: tuple[int, ...]) -> None:
        ticket = self._running.get(ticket_id)
        if ticket is None:
            raise EngineCrashed(f"the worker wrote for {ticket_id}, which was not asked")
        if position != ticket.position:
            raise EngineCrashed(f"token {position} came where {ticket.position} was due")
        if not ticket.write(ids):
            self._keeper.send(Cancel(ticket_id))
