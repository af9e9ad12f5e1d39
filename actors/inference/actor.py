"""One model: who may wait, whose turn it is, and a worker process that is kept alive.

The actor's task decides about requests; a second task of it keeps a worker: starts it, loads the
model, passes commands and reports, watches for silence and memory, and starts the next one after
a crash.  A request that a worker died under is told at once; those that wait go on.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TypeAlias, assert_never

import trio

from r3mes.actors.inference.admission import Admission
from r3mes.actors.inference.files import check_model
from r3mes.actors.inference.generation import Ticket
from r3mes.actors.inference.manifest import Manifest, manifest_of
from r3mes.actors.inference.process import Worker, open_worker
from r3mes.actors.inference.protocol import (
    Cancel,
    Command,
    Ended,
    Load,
    Loaded,
    LoadFailed,
    Ping,
    Pong,
    Report,
    Start,
    Wrote,
    unpack_ids,
)
from r3mes.actors.inference.settings import ModelSettings
from r3mes.actors.inference.source import find_model
from r3mes.actors.inference.text import Text
from r3mes.actors.kernel.actor import Actor
from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.errors import REGISTRY, EngineCrashed, EngineError, ModelInvalid, NotReady, Overloaded

logger = logging.getLogger(__name__)

WATCH_EVERY_S = 0.5
FIRST_RESTART_S, LAST_RESTART_S = 0.1, 60.0


@dataclass(frozen=True, slots=True)
class Enqueue(Ask[Ticket]):
    """Give this request a place."""

    start: Start
    deadline: float


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
        state: ``loading``, ``ready``, ``restarting`` or ``failed``.
        ready: set once a worker has loaded the model, kept while the next one starts.
        error: why the last worker failed.
    """

    state: str = "loading"
    ready: Ready | None = None
    error: EngineError | None = None
    waiting: int = 0
    running: int = 0
    restarts: int = 0
    pid: int | None = None


class ModelActor(Actor[Message]):
    """Serves one model; ``client`` in `r3mes.actors.inference.client` is made from it."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(Mailbox(f"model {settings.name}", capacity=settings.queue + 16))
        self.settings = settings
        self.board = Board()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self._admission = Admission(self.settings.queue)
        self._waiting: OrderedDict[int, Ticket] = OrderedDict()
        self._running: dict[int, Ticket] = {}
        self._outbox: trio.MemorySendChannel[Command] | None = None
        self.board.state = "loading"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_worker)
                yield
                nursery.cancel_scope.cancel()
        finally:
            self._drop(self._waiting, EngineCrashed("the model is being stopped"))
            self._drop(self._running, EngineCrashed("the model is being stopped"))

    async def handle(self, message: Message) -> None:
        match message:
            case Enqueue():
                message.reply(self._enqueue(message))
                self._dispatch()
            case Withdraw(id=ticket_id):
                self._withdraw(ticket_id)
            case _:
                assert_never(message)

    # Requests

    def _enqueue(self, message: Enqueue) -> Ticket:
        if self.board.ready is None:
            raise NotReady(f"the model {self.settings.name} is not loaded yet", retry_after_s=5)
        self._admission.check(
            waiting=len(self._waiting),
            running=len(self._running),
            slots=self.board.ready.slots,
            patience_s=message.deadline - trio.current_time(),
        )
        ticket = Ticket(message.start, message.deadline)
        self._waiting[message.start.id] = ticket
        return ticket

    def _withdraw(self, ticket_id: int) -> None:
        if ticket := self._waiting.pop(ticket_id, None):
            ticket.end("cancelled")
        elif ticket_id in self._running:
            self._command(Cancel(ticket_id))
        self._count()

    def _dispatch(self) -> None:
        """Begin what there are slots for."""
        ready = self.board.ready
        while self._outbox and ready and self._waiting and len(self._running) < ready.slots:
            _, ticket = self._waiting.popitem(last=False)
            if trio.current_time() > ticket.deadline:
                ticket.end(error=Overloaded("its turn came too late", retry_after_s=1))
                continue
            self._running[ticket.start.id] = ticket
            ticket.began_at = trio.current_time()
            ticket.began.set()
            self._command(ticket.start)
        self._count()

    def _command(self, command: Command) -> None:
        if self._outbox is not None:
            self._outbox.send_nowait(command)

    def _drop(self, tickets: dict[int, Ticket], error: EngineError) -> None:
        for ticket in tickets.values():
            ticket.end(error=error)
        tickets.clear()
        self._count()

    def _count(self) -> None:
        self.board.waiting, self.board.running = len(self._waiting), len(self._running)

    # The worker

    async def _keep_worker(self) -> None:
        pause = FIRST_RESTART_S
        while True:
            loaded_before = self.board.ready
            began = trio.current_time()
            error = await self._one_worker()
            self.board.pid, self._outbox = None, None
            self.board.error = error
            crashed = isinstance(error, EngineCrashed)
            logger.error("model %s: %s", self.settings.name, error)
            self._drop(self._running, error if crashed else EngineCrashed(error.detail))
            if isinstance(error, ModelInvalid):
                self.board.ready = None
            if self.board.ready is None:
                self.board.state = "failed"
                self._drop(self._waiting, error)
            if isinstance(error, ModelInvalid):
                await trio.sleep_forever()  # the same files would fail the same way
            else:
                self.board.state = "restarting" if self.board.ready else "failed"
            if trio.current_time() - began > LAST_RESTART_S and loaded_before:
                pause = FIRST_RESTART_S
            await trio.sleep(pause)
            pause = min(pause * 2, LAST_RESTART_S)
            self.board.restarts += 1

    async def _one_worker(self) -> EngineError:
        """Run a worker until it fails; returns why."""
        failures: list[EngineError] = []
        try:
            directory = await trio.to_thread.run_sync(self._find, abandon_on_cancel=True)
            async with open_worker(os.environ) as worker:
                self.board.pid = worker.pid
                await self._load(worker, directory)
                await self._serve(worker)
        except* EngineError as group:
            failures.extend(_leaves(group))
        return failures[0]

    def _find(self) -> Path:
        directory = find_model(self.settings.source, self.settings.revision)
        check_model(directory)
        return directory

    async def _load(self, worker: Worker, directory: Path) -> None:
        settings = self.settings
        load = Load(
            path=str(directory),
            device=settings.device,
            dtype=settings.dtype,
            max_context=settings.max_context or 0,
            slots=settings.slots,
            threads=settings.threads or 0,
        )
        with trio.move_on_after(settings.load_timeout):
            await worker.send(load)
            report = await worker.receive()
            match report:
                case Loaded():
                    await self._become_ready(report)
                case LoadFailed():
                    raise _load_error(report)
                case _:
                    raise EngineCrashed(f"the worker said {type(report).__name__} before Loaded")
            return
        raise EngineCrashed(f"loading took longer than {settings.load_timeout:g} s")

    async def _become_ready(self, loaded: Loaded) -> None:
        text = await trio.to_thread.run_sync(Text, loaded)
        manifest = manifest_of(self.settings.name, loaded)
        before = self.board.ready
        if before and before.manifest.hash != manifest.hash:
            self._drop(self._waiting, EngineCrashed("the model's files changed"))
        self.board.ready = Ready(manifest, text, loaded.vocabulary, loaded.slots)
        self.board.state, self.board.error = "ready", None
        logger.info("model %s is ready: %s", self.settings.name, manifest)

    async def _serve(self, worker: Worker) -> None:
        self._outbox, commands = trio.open_memory_channel[Command](
            inf
        )  # bounded by slots and pings
        self._heard_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_commands, worker, commands)
            nursery.start_soon(self._watch, worker)
            self._dispatch()
            while True:
                report = await worker.receive()
                self._heard_at = trio.current_time()
                self._take(report)

    async def _send_commands(
        self, worker: Worker, commands: trio.MemoryReceiveChannel[Command]
    ) -> None:
        async for command in commands:
            await worker.send(command)

    async def _watch(self, worker: Worker) -> None:
        """Raise when it is silent for too long or takes too much memory."""
        number, cap = 0, self.settings.memory_bytes
        while True:
            await trio.sleep(WATCH_EVERY_S)
            silent = trio.current_time() - self._heard_at
            if silent > self.settings.silence_timeout:
                raise EngineCrashed(f"the worker gave no sign of life for {silent:.0f} s")
            if cap is not None and (taken := worker.memory_bytes()) > cap:
                raise EngineCrashed(
                    f"the worker took {taken >> 20} MiB and may take {cap >> 20}",
                    do="raise engine.memory_bytes, or choose a smaller model or context",
                )
            if silent > WATCH_EVERY_S:
                number += 1
                self._command(Ping(number))

    def _take(self, report: Report) -> None:
        match report:
            case Wrote(id=ticket_id, position=position, ids=packed):
                self._wrote(ticket_id, position, unpack_ids(packed))
            case Ended(id=ticket_id, reason=reason):
                if ticket := self._running.pop(ticket_id, None):
                    self._admission.served(trio.current_time() - ticket.began_at)
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
            return
        if position != ticket.position:
            raise EngineCrashed(f"token {position} came where {ticket.position} was due")
        ticket.position += len(ids)
        try:
            ticket.ids_in.send_nowait(ids)
        except (trio.BrokenResourceError, trio.WouldBlock):
            self._command(Cancel(ticket_id))  # nobody reads, or it writes more than was asked


def _load_error(report: LoadFailed) -> EngineError:
    kind = REGISTRY.get(report.code, EngineError)
    if not issubclass(kind, EngineError):
        kind = EngineError
    return kind(report.why, do=report.do or None)


def _leaves(group: BaseExceptionGroup[EngineError]) -> list[EngineError]:
    """The errors in a group of groups."""
    found: list[EngineError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
