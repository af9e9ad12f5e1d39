"""One model: who may wait, and whose turn it is.

The actor decides about requests and passes them to a worker process that its keeper keeps alive.
A request that a worker died under is tried once more if its reader has no token yet, else it is
told at once; those that wait go on with the next worker.

The operator may put the model away and take it out again.  While it is put away nothing new is
taken; the answers in flight end whole, within a time, and then the worker goes with its memory.

A model that nobody asks for may also be put to rest, by itself or when memory is short.  It is
offered as before, and the next request wakes it and waits for it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, assert_never

import trio

from r3mes.actors.inference.admission import Admission
from r3mes.actors.inference.building import BUILDER, build
from r3mes.actors.inference.choice import Choice
from r3mes.actors.inference.generation import Ticket
from r3mes.actors.inference.keeper import Fetch, Keeper
from r3mes.actors.inference.manifest import Manifest, manifest_of
from r3mes.actors.inference.process import COMMAND
from r3mes.actors.inference.protocol import (
    AdapterFailed,
    AdapterLoaded,
    Built,
    Cancel,
    Embedded,
    Ended,
    Loaded,
    LoadFailed,
    Pong,
    Report,
    Wrote,
    unpack_ids,
)
from r3mes.actors.inference.settings import AdapterSettings, ModelSettings
from r3mes.actors.inference.shelf import Shelf, Shelved
from r3mes.actors.inference.suspects import Suspects
from r3mes.actors.inference.text import Text
from r3mes.actors.inference.turns import Turns
from r3mes.actors.inference.upstream.keeper import UpstreamKeeper
from r3mes.actors.kernel.actor import Actor
from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.errors import (
    BadRequest,
    EngineCrashed,
    EngineError,
    ModelInvalid,
    ModelUnloaded,
    NotReady,
    Overloaded,
    R3mesError,
)

logger = logging.getLogger(__name__)

IDLE_LOOK_S = 10.0
"""Between two looks at whether a model that is due to rest still has something to do."""
WAKES = "ask it: the next request loads it again"


@dataclass(frozen=True, slots=True)
class Enqueue(Ask[None]):
    """Give this request a place in the queue."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Nobody reads this answer any more."""

    id: int


@dataclass(frozen=True, slots=True)
class Load(Ask[None]):
    """Take the model out, or try again now if it failed; answered before it is loaded."""


@dataclass(frozen=True, slots=True)
class Rest(Ask[bool]):
    """Give the memory back until somebody asks, if nobody does now; whether it was done."""

    why: str


@dataclass(frozen=True, slots=True)
class Unload(Ask[None]):
    """Put the model away; answered when its worker is gone.

    Args:
        patience_s: answers in flight that take longer are cut off.
    """

    patience_s: float


@dataclass(frozen=True, slots=True)
class LoadAdapter(Ask[Shelved]):
    """Load an adapter, also in place of one of its name; answered before it is loaded."""

    settings: AdapterSettings


@dataclass(frozen=True, slots=True)
class UnloadAdapter(Ask[None]):
    """Put an adapter away; answered when it has gone.

    Args:
        adapter: which one.
        patience_s: answers in flight that take longer are cut off.
    """

    adapter: Shelved
    patience_s: float


Message: TypeAlias = Enqueue | Withdraw | Load | Rest | Unload | LoadAdapter | UnloadAdapter


@dataclass(frozen=True, slots=True)
class Ready:
    """What a loaded model offers; of its ``files`` the SHA-256 in hex, ``room`` in tokens."""

    manifest: Manifest
    text: Text
    vocabulary: int
    slots: int
    files: Mapping[str, str]
    room: int = 0


@dataclass(slots=True)
class Board:
    """What the actor lets others see without asking; it alone writes here.

    Args:
        slots: answers that can be written at the same time.
        admission: who may wait.
        state: ``loading``, ``ready``, ``restarting`` (requests wait), ``failed``, ``unloading``
            (answers in flight end), ``unloaded`` or ``resting`` (a request wakes it).
        pinned: it never rests.
        ready: set once a worker has loaded the model, kept while it rests or the next one starts.
        directory: where the files are that were loaded last.
        choice: the engine and why; None until the files are found.
        error: why there is no worker now.
        losses: workers lost so far, by the code of the error.
        load_s: seconds without a worker before the present one was ready.
        pid: of the worker.
        native: what of the model is code made for this machine, and what is in the way of more.
        gpu_bytes: what it has taken on its GPU, at its last sign of life while it was idle.
        idle_since: when the last answer ended, on trio's clock.
        adapters: by their names, without the model's.
        adapter_bytes: what all adapters in memory take.
        used: what the present worker said last of its memory and work.
        turns: those that wait.
    """

    slots: int
    admission: Admission
    pinned: bool = False
    state: str = "loading"
    ready: Ready | None = None
    choice: Choice | None = None
    error: EngineError | None = None
    waiting: int = 0
    running: int = 0
    losses: Counter[str] = field(default_factory=Counter)
    load_s: float | None = None
    pid: int | None = None
    native: str = ""
    gpu_bytes: int = 0
    directory: Path | None = None
    idle_since: float = field(default_factory=trio.current_time)
    adapters: dict[str, Shelved] = field(default_factory=dict)
    adapter_bytes: int = 0
    used: Pong | None = None
    turns: Turns = field(default_factory=Turns)
    changed: trio.Event = field(default_factory=trio.Event)

    def check_room(self, patience_s: float, owner: bytes = b"") -> None:
        """Let a request in that is worthless unless it has begun in ``patience_s`` seconds.

        Raises:
            Overloaded: as `Admission.check` finds.
        """
        self.admission.check(
            waiting=len(self.turns),
            ahead=self.turns.ahead(owner),
            may_displace=self.turns.to_displace(owner) is not None,
            running=self.running,
            slots=self.slots,
            patience_s=patience_s,
            # One that rests is loaded for whoever asks, however long that takes.
            loading=self.state not in ("ready", "resting"),
        )

    @property
    def full(self) -> bool:
        """Whether another one waits only in the place of one that does."""
        waiting = len(self.turns)
        return self.admission.full(waiting=waiting, running=self.running, slots=self.slots)

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
        builder: the same of what builds code for this machine.
        fetch: pulls a model that is not on this machine.
    """

    def __init__(
        self,
        settings: ModelSettings,
        command: Sequence[str] = COMMAND,
        builder: Sequence[str] = BUILDER,
        fetch: Fetch | None = None,
    ) -> None:
        super().__init__(Mailbox(f"model {settings.name}", capacity=settings.queue + 16))
        self.settings = settings
        self.board = Board(settings.slots, Admission(settings.queue), settings.pinned)
        self._worker_command, self._builder_command, self._fetch = command, builder, fetch
        self._suspects = Suspects()
        self._shelf = Shelf(
            settings.name,
            settings.adapters,
            places=settings.adapter_places,
            porter=lambda: self._keeper,
            in_use=lambda: {one.adapter for one in self._running.values() if one.adapter},
            changed=self._adapters_changed,
        )
        self.board.adapters = self._shelf.adapters
        self._resting = ""  # why it rests; empty while it does not
        self._build_tried = self._held = False
        self._wanted = True  # False while the model is put away, also over restarts of the actor

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self._waiting = self.board.turns
        self._running: dict[int, Ticket] = {}
        self._keeping, self._called, self._emptied = trio.CancelScope(), trio.Event(), trio.Event()
        self._set_out()
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._keep_worker)
                self._nursery.start_soon(self._shelf.run)
                self._nursery.start_soon(self._watch_idleness)
                yield
                self._nursery.cancel_scope.cancel()
        finally:
            stopped = EngineCrashed("the model was stopped")
            self._drop(self._waiting, stopped)
            self._cut_off(stopped)

    async def handle(self, message: Message) -> None:
        match message:
            case Enqueue() if not self._wanted:
                message.refuse(self._put_away())
            case Enqueue(ticket=ticket):
                self._admit(ticket)
                self._wake()
                self._dispatch()
                message.reply(None)
            case Withdraw(id=ticket_id):
                self._withdraw(ticket_id)
            case Load():
                self._load()
                message.reply(None)
            case Rest(why=why):
                message.reply(self._rest(why))
            case Unload(patience_s=patience_s):
                self._unload(patience_s)
                self._nursery.start_soon(self._tell_when_gone, message)
            case LoadAdapter(settings=settings):
                self._wake()
                message.reply(self._shelf.put(settings))
            case UnloadAdapter():
                self._nursery.start_soon(self._unload_adapter, message)
            case _:
                assert_never(message)

    def _admit(self, ticket: Ticket) -> None:
        self._suspects.check(ticket.start)
        if ticket.adapter is not None:
            ticket.adapter.check()  # it may have gone since its name was read
        owner = ticket.start.owner
        self.board.check_room(ticket.deadline - trio.current_time(), owner)
        if self.board.full:
            self._displace(owner)
        self._waiting[ticket.start.id] = ticket

    def _displace(self, owner: bytes) -> None:
        """Refuse the newest of whoever has the most waiting, to keep the queue within its depth."""
        if ticket := self._waiting.to_displace(owner):
            del self._waiting[ticket.start.id]
            ticket.end(error=Overloaded("others came who wait less often", retry_after_s=1))

    def _withdraw(self, ticket_id: int) -> None:
        if ticket := self._waiting.pop(ticket_id, None):
            ticket.end("cancelled")
        elif ticket_id in self._running:
            self._keeper.send(Cancel(ticket_id))  # its slot is free when the worker says so
        self._count()

    def _dispatch(self) -> None:
        """Begin what there are slots for."""
        now = trio.current_time()
        able = self._keeper.up and self.board.state == "ready" and not self._held
        while able and len(self._running) < self.settings.slots:
            ticket = self._next_that_can_begin()
            if ticket is None or (self._running and self._must_wait_for(ticket)):
                break
            if now <= ticket.deadline and not self._fits(ticket):
                break  # nobody overtakes: it would wait for ever
            del self._waiting[ticket.start.id]
            if now > ticket.deadline:
                ticket.end(error=Overloaded("its turn came too late", retry_after_s=1))
                continue
            self._running[ticket.start.id] = ticket
            self._waiting.begin(ticket)
            self._keeper.start(ticket)
        self._count()

    def _fits(self, ticket: Ticket) -> bool:
        """Whether memory is expected to do for all answers; one alone always fits."""
        room = self.board.ready.room if self.board.ready else 0
        promised = sum(one.expected for one in self._running.values())
        return not room or not self._running or promised + ticket.expected <= room

    def _must_wait_for(self, ticket: Ticket) -> bool:
        """Whether ``ticket``, or what runs now, is to be answered alone."""
        starts = [ticket.start, *(running.start for running in self._running.values())]
        return any(map(self._suspects.suspected, starts))

    def _next_that_can_begin(self) -> Ticket | None:
        """The first whose adapter is in memory; others wait until theirs has come."""
        for ticket in self._waiting.values():
            at_hand = self._shelf.is_at_hand(ticket.adapter)
            if at_hand and not (ticket.adapter and self._shelf.is_short):
                return ticket
        return None

    def _cut_off(self, error: EngineError) -> None:
        """End the answers in flight."""
        for ticket in self._running.values():
            self._waiting.end(ticket)
        self._drop(self._running, error)

    def _drop(self, tickets: MutableMapping[int, Ticket], error: EngineError) -> None:
        for ticket in tickets.values():
            ticket.end(error=error)
        tickets.clear()
        self._count()

    def _count(self) -> None:
        board = self.board
        if board.running and not self._running:
            board.idle_since = trio.current_time()
        board.waiting, board.running = len(self._waiting), len(self._running)
        if not self._running:
            self._emptied.set()
        self.board.adapter_bytes = self._shelf.memory_bytes

    # Taken out and put away

    async def _keep_worker(self) -> None:
        """A keeper and its workers as long as the model is wanted, nothing while it is not."""
        while True:
            if self._wanted and self._resting:
                self.board.pid = None
                self.board.turn("resting", ModelUnloaded(self._resting, do=WAKES))
                await self._called.wait()
            elif self._wanted:
                self._set_out()
                with trio.CancelScope() as self._keeping:
                    await self._keeper.run()
                self._shelf.worker_went()
            else:
                self.board.pid = None
                self.board.turn("unloaded", self._put_away())
                await self._called.wait()

    def _set_out(self) -> None:
        self._keeper = self._new_keeper()
        self._without_worker_since = trio.current_time()
        self.board.turn("restarting" if self.board.ready else "loading")

    def _new_keeper(self) -> Keeper | UpstreamKeeper:
        if self.settings.upstream is not None:
            return UpstreamKeeper(self.settings, self.settings.upstream, self)
        return Keeper(self.settings, self, self._worker_command, self._fetch)

    def _load(self) -> None:
        if self.board.state == "unloading":
            raise NotReady(f"{self.settings.name} is still being unloaded", retry_after_s=1)
        self._wanted = True
        self._called.set()
        self._wake()
        if self.board.state == "failed":
            self.board.turn("loading")
            self._keeping.cancel()

    def _unload(self, patience_s: float) -> None:
        if self._wanted:
            self._wanted, self._resting = False, ""
            self._called.set()  # if it rested
            self._called = trio.Event()
            self.board.ready = None
            self.board.turn("unloading", self._put_away())
            self._drop(self._waiting, self._put_away())
            self._nursery.start_soon(self._end_worker, patience_s)

    def _rest(self, why: str) -> bool:
        """Let the worker go, if nothing is to do and this is allowed."""
        busy = self._running or self._waiting or self.board.state != "ready"
        if busy or self.settings.pinned or not isinstance(self._keeper, Keeper):
            return False
        self._keeper.retire()
        self._resting, self._called = why, trio.Event()
        self._keeping.cancel()
        return True

    def _wake(self) -> None:
        if self._resting:
            self._resting = ""
            self._called.set()

    async def _watch_idleness(self) -> None:
        idle_s = self.settings.idle_s
        while idle_s is not None:
            left = self.board.idle_since + idle_s - trio.current_time()
            if left > 0:
                await trio.sleep(left)
            elif self._rest(f"nobody asked for it for {idle_s / 60:g} minutes"):
                logger.info("model %s rests: %s", self.settings.name, self._resting)
                await trio.sleep(idle_s)
            else:
                await trio.sleep(min(idle_s, IDLE_LOOK_S))

    async def _end_worker(self, patience_s: float) -> None:
        with trio.move_on_after(patience_s):
            await self._until_empty()
        self._cut_off(self._put_away())
        self._keeping.cancel()

    async def _tell_when_gone(self, message: Unload) -> None:
        while self.board.state == "unloading":
            await self.board.changed.wait()
        message.reply(None)

    def _put_away(self) -> ModelUnloaded:
        return ModelUnloaded(f"the model {self.settings.name} was unloaded by the operator")

    async def _until_empty(self) -> None:
        """Until no answer is in flight."""
        while self._running:
            if self._emptied.is_set():
                self._emptied = trio.Event()
            await self._emptied.wait()

    # Code for this machine

    async def _build(self, programs: Path) -> None:
        """Have it built beside the answers, then let a worker that uses it take over."""
        self._build_tried = True  # once; a worker that still lacks it would be exchanged for ever
        try:
            await trio.sleep(self.settings.build_after_s)
            scaled = self.settings.weights != "stored"
            if (directory := self.board.directory) is None:
                return
            why = await build(directory, programs, self._builder_command, scaled=scaled)
            if why:
                self.board.native += f": {why}"
                self.board.turn(self.board.state, self.board.error)
                return
            with trio.move_on_after(self.settings.exchange_within_s):
                await self._until_empty()
            self._held = True  # under steady load there would always be another answer
            await self._until_empty()
            if self._wanted and self._keeper.up and isinstance(self._keeper, Keeper):
                self._keeper.retire()
                self.board.turn("restarting")
                self._keeping.cancel()
        finally:
            self._held = False

    # Adapters

    def _adapters_changed(self) -> None:
        for ticket in list(self._waiting.values()):
            if ticket.adapter is not None and ticket.adapter.error is not None:
                del self._waiting[ticket.start.id]
                ticket.end(error=ticket.adapter.error)
        self._dispatch()
        self.board.turn(self.board.state, self.board.error)

    async def _unload_adapter(self, message: UnloadAdapter) -> None:
        adapter = message.adapter
        gone = ModelUnloaded(f"the adapter {adapter.name} was unloaded by the operator")
        adapter.turn("unloading", gone)
        self._adapters_changed()
        with trio.move_on_after(message.patience_s):
            while any(one.adapter is adapter for one in self._running.values()):
                await self.board.changed.wait()
        for ticket in [one for one in self._running.values() if one.adapter is adapter]:
            self._keeper.send(Cancel(ticket.start.id))
            ticket.end(error=gone)
        self._shelf.put_away(adapter)
        adapter.turn("unloaded", gone)
        self._adapters_changed()
        message.reply(None)

    # What the keeper tells: `r3mes.actors.inference.keeper.Employer`

    def chosen(self, choice: Choice) -> None:
        self.board.choice = choice

    async def loaded(self, loaded: Loaded, pid: int) -> None:
        text = await trio.to_thread.run_sync(Text, loaded)
        if not self._wanted:
            return
        manifest = manifest_of(self.settings.name, loaded)
        before = self.board.ready
        if before is not None and before.manifest.hash != manifest.hash:
            self._drop(self._waiting, EngineCrashed("the model's files have changed"))
        self.board.ready = Ready(
            manifest, text, loaded.vocabulary, loaded.slots, dict(loaded.files), loaded.room
        )
        self.board.pid, self.board.directory = pid, self._keeper.directory
        self.board.idle_since = trio.current_time()
        self.board.load_s = trio.current_time() - self._without_worker_since
        self.board.admission.loaded(self.board.load_s)
        self.board.native = loaded.native
        self.board.turn("ready")
        if loaded.unbuilt and self.settings.programs is not None and not self._build_tried:
            self._nursery.start_soon(self._build, self.settings.programs)
        self._shelf.worker_came(manifest)
        self._dispatch()

    def lost(self, error: EngineError) -> None:
        under = error if isinstance(error, EngineCrashed) else EngineCrashed(error.detail)
        self._suspects.died(ticket.start for ticket in self._running.values())
        if self._wanted:
            self._retry()
        self._cut_off(under)
        self._shelf.worker_went()
        self._without_worker_since = trio.current_time()
        self.board.pid, self.board.used = None, None
        self.board.losses[error.kind.code] += 1
        if not self._wanted:
            return
        if isinstance(error, ModelInvalid):
            self.board.ready = None  # and no further worker comes
        if self.board.ready is None:
            self._drop(self._waiting, error)
        self.board.turn("restarting" if self.board.ready else "failed", error)

    def _retry(self) -> None:
        """Let those wait again whom nobody has read from, each once."""
        again = [one for one in self._running.values() if one.untold and not one.retried]
        for ticket in reversed(again):
            ticket.retried = True
            del self._running[ticket.start.id]
            self._waiting.put_back(ticket)

    def failed(self, ticket_id: int, error: R3mesError) -> None:
        if ticket := self._running.pop(ticket_id, None):
            self._waiting.end(ticket)
            ticket.end(error=error)
            self._ended(ticket)
        self._dispatch()

    def heard(self, report: Report) -> None:
        match report:
            case Wrote():
                self._wrote(report)
            case Ended(id=ticket_id, reason=reason, why=why):
                if ticket := self._running.pop(ticket_id, None):
                    self.board.admission.served(trio.current_time() - ticket.began_at)
                    self._suspects.clear(ticket.start)
                    self._waiting.end(ticket)
                    refused = BadRequest(why) if reason == "refused" else None
                    ticket.end("" if refused else reason, refused)
                    self._ended(ticket)
                self._dispatch()
            case Pong():
                self.board.gpu_bytes, self.board.used = report.gpu_bytes, report
            case AdapterLoaded() | AdapterFailed():
                self._shelf.heard(report)
            case Loaded() | LoadFailed() | Built():
                raise EngineCrashed("the worker loaded twice")
            case Embedded():
                raise EngineCrashed("the worker embeds instead of writing")
            case _:
                assert_never(report)

    def _ended(self, ticket: Ticket) -> None:
        if ticket.adapter is not None:
            self._shelf.tidy()
            self.board.turn(self.board.state, self.board.error)

    def _wrote(self, wrote: Wrote) -> None:
        ticket, position = self._running.get(wrote.id), wrote.position
        if ticket is None:
            raise EngineCrashed(f"the worker wrote for {wrote.id}, which was not asked")
        if position != ticket.position:
            raise EngineCrashed(f"token {position} came where {ticket.position} was due")
        if not ticket.write(unpack_ids(wrote.ids), wrote.logprobs):
            self._keeper.send(Cancel(wrote.id))
