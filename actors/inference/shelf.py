"""The adapters of one model: which there are, which are in the worker's memory, who goes first.

An adapter is offered once it was loaded with this very model, and stays offered when its place in
memory is needed for another: the one that was not used for longest goes, and comes back from disk
when it is asked for.  One is carried at a time, while answers go on.  An adapter that replaces
another of its name takes the name when it has proved good; answers under way end with the old one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Protocol

import trio

from r3mes.actors.inference.adapter_files import AdapterFiles, adapted_hash, read_adapter
from r3mes.actors.inference.manifest import Manifest
from r3mes.actors.inference.protocol import (
    AdapterFailed,
    AdapterLoaded,
    AdapterPart,
    Command,
    LoadAdapter,
    UnloadAdapter,
    failure,
)
from r3mes.actors.inference.settings import AdapterSettings
from r3mes.errors import (
    EngineCrashed,
    EngineError,
    ModelInvalid,
    ModelUnloaded,
    NotReady,
    R3mesError,
)
from r3mes.ids import ModelHash

PART_BYTES = 4 << 20
CARRY_S = 300.0
"""How long the worker may take to load one."""
TRIES = 2
"""Workers that may die while they load one."""
NUMBER_BYTES = {"float32": 4}
"""Of the precisions; two of all others."""


@dataclass(eq=False, slots=True)
class Shelved:
    """One adapter; its shelf alone writes here.

    Args:
        model: the name of the model.
        state: ``loading``, ``ready`` (can be asked for), ``failed``, ``unloading`` (answers in
            flight end), ``unloaded`` or ``replaced``.
        error: why it is not ready.
        directory: where its files are.
        hash: of model and adapter together, once it was loaded.
        numeric: how it computes, as a part of the numeric class.
        number: in the present worker; 0 if it is not in memory.
        memory_bytes: that it takes there, at most.
        used_at: when an answer began with it, on trio's clock.
        deaths: of workers that were loading it.
        settled: it is no longer loading.
    """

    model: str
    settings: AdapterSettings
    state: str = "loading"
    error: R3mesError | None = None
    directory: Path | None = None
    hash: ModelHash | None = None
    numeric: str = ""
    number: int = 0
    memory_bytes: int = 0
    used_at: float = 0.0
    deaths: int = 0
    settled: trio.Event = field(default_factory=trio.Event)

    @property
    def name(self) -> str:
        """By which it is asked for."""
        return f"{self.model}:{self.settings.name}"

    def check(self) -> None:
        """Say why it cannot be used; nothing if it can.

        Raises:
            NotReady: it is being loaded.
            ModelUnloaded: the operator has put it away, or put another in its place.
            EngineError: it could not be loaded.
        """
        if self.state == "loading":
            raise NotReady(f"the adapter {self.name} is still being loaded", retry_after_s=5)
        if self.error is not None:
            raise self.error.again()

    def turn(self, state: str, error: R3mesError | None = None) -> None:
        """Enter a state."""
        self.state, self.error = state, error
        if state != "loading":
            self.settled.set()


class Porter(Protocol):
    """What carries adapters to the worker."""

    @property
    def up(self) -> bool:
        """Commands reach a worker with a loaded model."""

    def send(self, command: Command) -> None:
        """Queue a command; lost if the worker is."""

    async def deliver(self, command: Command) -> None:
        """Give the worker a command; raises `EngineCrashed` if it has gone."""

    def spare_bytes(self) -> float:
        """Memory that the worker may still take."""

    async def locate(self, source: str, revision: str) -> Path:
        """Where the files of an adapter are; raises `EngineError`."""


class Shelf:
    """The adapters of one model.

    Args:
        model: its name.
        settings: of the adapters that are there from the start.
        places: adapters in memory at the same time.
        porter: tells what carries now; another one with each worker.
        in_use: the adapters of answers under way.
        changed: called when answers may begin that could not before, or a state is new.
    """

    def __init__(
        self,
        model: str,
        settings: Collection[AdapterSettings],
        *,
        places: int,
        porter: Callable[[], Porter],
        in_use: Callable[[], Collection[Shelved]],
        changed: Callable[[], None],
    ) -> None:
        self.model, self._places = model, places
        self._porter, self._in_use, self._changed = porter, in_use, changed
        self._base: Manifest | None = None
        self._base_hash = b""
        self.adapters = {one.name: Shelved(model, one) for one in settings}
        """By their names, without the model's."""
        self._wanted: deque[Shelved] = deque(self.adapters.values())
        self._replaced: list[Shelved] = []
        self._carried: Shelved | None = None
        self._short = False
        self._outcome = _Outcome(0)
        self._numbers = count(1)
        self._wake = trio.Event()
        self.memory_bytes = 0
        """What all adapters take, as the worker said last."""

    # What the actor asks

    def is_at_hand(self, adapter: Shelved | None) -> bool:
        """Whether an answer may begin with it now; else it is fetched."""
        if adapter is None or adapter.number:
            return True
        if adapter not in self._wanted and adapter is not self._carried:
            self._wanted.append(adapter)
        self._wake.set()
        return False

    @property
    def is_short(self) -> bool:
        """One waits for memory that answers take: no other may begin with an adapter before."""
        return self._short

    def put(self, settings: AdapterSettings) -> Shelved:
        """Load an adapter; it takes its name when it has proved good."""
        adapter = Shelved(self.model, settings)
        self.adapters.setdefault(settings.name, adapter)
        self._wanted.append(adapter)
        self._wake.set()
        return adapter

    def put_away(self, adapter: Shelved) -> None:
        """No answer uses it any more: free its memory."""
        if adapter.number:
            self._porter().send(UnloadAdapter(adapter.number))
            adapter.number = 0
        if adapter in self._wanted:
            self._wanted.remove(adapter)
        self._wake.set()

    def tidy(self) -> None:
        """An answer has ended: what was replaced may go, and others may come."""
        for adapter in [one for one in self._replaced if one not in self._in_use()]:
            self._replaced.remove(adapter)
            self.put_away(adapter)
        self._wake.set()

    # What the actor tells of workers

    def worker_came(self, base: Manifest) -> None:
        """A fresh worker, without any adapter."""
        changed = self._base_hash != base.hash
        self._base, self._base_hash, self.memory_bytes = base, base.hash, 0
        for adapter in self.adapters.values():
            if adapter.state == "ready" and changed:
                adapter.turn("loading")  # it has to prove itself with this model
            if adapter.state == "loading" and adapter not in self._wanted:
                self._wanted.append(adapter)
        self._wake.set()

    def worker_went(self) -> None:
        """And all adapters with it."""
        for adapter in [*self.adapters.values(), *self._replaced]:
            adapter.number = 0
        self._replaced.clear()
        self._base, self._short = None, False
        self._outcome.fail(EngineCrashed("the worker died while it loaded the adapter"))

    def heard(self, report: AdapterLoaded | AdapterFailed) -> None:
        """What has become of the one that was carried."""
        self._outcome.take(report)

    # Carrying

    async def run(self) -> None:
        """Carry what is wanted, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._wanted and self._porter().up and self._base is not None:
                adapter = self._wanted.popleft()
                if not await self._fetch(adapter, self._base):
                    self._wanted.appendleft(adapter)
                    break

    async def _fetch(self, adapter: Shelved, base: Manifest) -> bool:
        """Bring an adapter into memory; False if it has to wait for an answer to end."""
        try:
            self._carried = adapter
            files = await self._read(adapter)
            self._check(adapter, files, base)
            adapter.memory_bytes = files.memory_bytes(NUMBER_BYTES.get(base.dtype, 2))
            self._short = not self._make_room(adapter)
            if self._short:
                return False
            await self._carry(adapter, files)
            adapter.hash = adapted_hash(base.hash, files.hash)
            self._install(adapter)
        except EngineCrashed as error:
            self._base = None  # until the next worker comes
            adapter.deaths += 1
            if adapter.deaths < TRIES:
                self._wanted.append(adapter)
            else:
                self._fail(adapter, error)
        except EngineError as error:
            self._fail(adapter, error)
        except OSError as error:
            self._fail(adapter, EngineError(f"the adapter {adapter.name} cannot be read: {error}"))
        finally:
            self._carried = None
        return True

    async def _read(self, adapter: Shelved) -> AdapterFiles:
        settings = adapter.settings
        directory = await self._porter().locate(settings.source, settings.revision)
        adapter.directory = directory
        return await trio.to_thread.run_sync(read_adapter, directory, abandon_on_cancel=True)

    def _check(self, adapter: Shelved, files: AdapterFiles, base: Manifest) -> None:
        files.check_base(base.hash)
        pinned = adapter.settings.hash
        if pinned is not None and files.hash != pinned:
            raise ModelInvalid(
                f"the adapter {adapter.name} has the hash {files.hash.hex()} and not the one in "
                "the configuration",
                do="get the right files, or correct the hash",
            )
        if adapter.state == "ready" and adapted_hash(base.hash, files.hash) != adapter.hash:
            raise ModelInvalid(
                f"the files of the adapter {adapter.name} have changed since it was loaded",
                do=f"take the new ones by: r3mes models adapter load {adapter.name}",
            )

    def _make_room(self, adapter: Shelved) -> bool:
        """Have those go that were not used for longest.

        Raises:
            EngineError: it would not fit if all others went.
        """
        room, needed = self._porter().spare_bytes(), adapter.memory_bytes
        while len(self._in_memory()) >= self._places or room < needed:
            oldest = min(self._idle(), key=lambda one: one.used_at, default=None)
            if oldest is None:
                if self._in_memory():
                    return False
                raise EngineError(
                    f"the adapter {adapter.name} takes {needed >> 20} MiB of memory, and "
                    f"{max(0, int(room)) >> 20} MiB are left",
                    do="raise engine.memory_bytes, or use an adapter of a lower rank",
                )
            room += oldest.memory_bytes
            self.put_away(oldest)
        return True

    async def _carry(self, adapter: Shelved, files: AdapterFiles) -> None:
        number, porter = next(self._numbers), self._porter()
        self._outcome = _Outcome(number)
        try:
            await porter.deliver(LoadAdapter(number, files.config, files.weight_bytes))
            async with await trio.open_file(files.weights, "rb") as file:
                while data := await file.read(PART_BYTES):
                    await porter.deliver(AdapterPart(number, data))
            loaded = await self._loaded(files.hash)
        except BaseException:
            porter.send(UnloadAdapter(number))
            raise
        adapter.number, adapter.numeric = number, loaded.numeric
        adapter.used_at, adapter.deaths = trio.current_time(), 0
        self.memory_bytes = loaded.memory_bytes

    async def _loaded(self, expected: ModelHash) -> AdapterLoaded:
        with trio.move_on_after(CARRY_S):
            loaded = await self._outcome.wait()
            if loaded.hash != expected:
                raise ModelInvalid("the files of the adapter changed while they were read")
            return loaded
        raise EngineError(f"loading the adapter took longer than {CARRY_S:g} s")

    def _install(self, adapter: Shelved) -> None:
        before = self.adapters.get(adapter.settings.name)
        if adapter.state not in ("loading", "ready"):
            self.put_away(adapter)  # it was put away meanwhile
            return
        self.adapters[adapter.settings.name] = adapter
        if before is not None and before is not adapter:
            why = f"the adapter {adapter.name} was replaced by another of its name"
            before.turn("replaced", ModelUnloaded(why, do="ask again"))
            self._replaced.append(before)
        adapter.turn("ready")
        self._changed()
        self.tidy()

    def _fail(self, adapter: Shelved, error: EngineError) -> None:
        if adapter.state in ("loading", "ready"):
            adapter.turn("failed", error)
        self._changed()

    def _in_memory(self) -> list[Shelved]:
        return [one for one in (*self.adapters.values(), *self._replaced) if one.number]

    def _idle(self) -> Iterator[Shelved]:
        in_use = self._in_use()
        return (one for one in self._in_memory() if one not in in_use)


class _Outcome:
    """What becomes of one adapter in the worker."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._known = trio.Event()
        self._result: AdapterLoaded | EngineError | None = None

    def take(self, report: AdapterLoaded | AdapterFailed) -> None:
        if report.number != self._number:
            return
        self._result = report if isinstance(report, AdapterLoaded) else failure(report)
        self._known.set()

    def fail(self, error: EngineError) -> None:
        self._result = self._result or error
        self._known.set()

    async def wait(self) -> AdapterLoaded:
        """Raises `EngineError` if it cannot be used."""
        await self._known.wait()
        if isinstance(self._result, AdapterLoaded):
            return self._result
        raise self._result or EngineCrashed("the worker went away")
