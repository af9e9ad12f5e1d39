"""Keeps a worker alive: starts it, loads the model, watches it, starts the next one.

A model that cannot be loaded does not end the node and is not tried in a tight loop: what the
files say stays so until someone changes them, everything else is tried again, more and more
slowly.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import inf
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

import trio

from r3mes.actors.inference.choice import EXPORT, NONE, OPENVINO, Choice, choose
from r3mes.actors.inference.files import check_model
from r3mes.actors.inference.generation import Ticket
from r3mes.actors.inference.library import Library, read_kept
from r3mes.actors.inference.memory import free_bytes, has_gpu, needed_bytes
from r3mes.actors.inference.openvino.place import export_place
from r3mes.actors.inference.process import COMMAND, Worker, open_worker
from r3mes.actors.inference.protocol import Command, Load, Loaded, LoadFailed, Ping, Report, failure
from r3mes.actors.inference.settings import ModelSettings
from r3mes.actors.inference.source import find_model, is_here
from r3mes.errors import (
    EngineCrashed,
    EngineError,
    EngineMissing,
    ModelInvalid,
    ModelTooLarge,
    R3mesError,
    WireError,
)

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=R3mesError)
LASTING = (ModelInvalid, EngineMissing)
"""What stays so until somebody changes something, and then has the model loaded again."""

WATCH_EVERY_S, PAUSED_S = 0.5, 3.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 60.0
PROVEN_S = 30.0
"""A worker that lived so long after loading was a good one: the next starts without a pause."""


Fetch: TypeAlias = Callable[[str, str], Awaitable[Path]]
"""From an id of the hub and a revision to the directory with the files."""


class Employer(Protocol):
    """Whom the keeper tells; none of these may block for long."""

    def chosen(self, choice: Choice) -> None:
        """This engine will run the model."""

    async def loaded(self, loaded: Loaded, pid: int) -> None:
        """A worker is ready for commands."""

    def heard(self, report: Report) -> None:
        """It reported; may raise `EngineCrashed` to have it replaced."""

    def failed(self, ticket_id: int, error: R3mesError) -> None:
        """One answer cannot be written; the others go on."""

    def lost(self, error: EngineError) -> None:
        """It has gone, or there never was one."""


class Keeper:
    """Runs one worker after the other for ``employer``.

    Args:
        settings: which model, and within which limits.
        command: the worker's program and arguments.
        fetch: pulls a model that is not on this machine; None if nobody does.
    """

    def __init__(
        self,
        settings: ModelSettings,
        employer: Employer,
        command: Sequence[str] = COMMAND,
        fetch: Fetch | None = None,
    ) -> None:
        self._settings, self._employer, self._command = settings, employer, command
        self._fetch = fetch
        self._outbox: trio.MemorySendChannel[Command] | None = None
        self._worker: Worker | None = None
        self._speaking = trio.Lock()
        self._heard_at = 0.0
        self.choice = Choice(NONE, "nothing was found yet")
        self.directory: Path | None = None
        """Where the present worker's files are."""

    @property
    def up(self) -> bool:
        """Commands reach a worker with a loaded model."""
        return self._outbox is not None

    def start(self, ticket: Ticket) -> None:
        """Have an answer written."""
        self.send(ticket.begin())

    def send(self, command: Command) -> None:
        """Queue a command; lost if the worker is."""
        if self._outbox is not None:
            self._outbox.send_nowait(command)

    def retire(self) -> None:
        """Pass on no more commands; `run` is about to be cancelled."""
        self._outbox = self._worker = None

    async def deliver(self, command: Command) -> None:
        """Return when a worker has been given the command, at once and not behind others.

        Raises:
            EngineCrashed: there is none, or it has gone.
        """
        worker = self._worker
        if worker is None:
            raise EngineCrashed("there is no worker")
        async with self._speaking:
            await worker.send(command)

    def spare_bytes(self) -> float:
        """Memory that the worker may still take."""
        cap = self._settings.memory_bytes
        return inf if cap is None or self._worker is None else cap - self._worker.memory_bytes()

    async def run(self) -> None:
        """Keep a worker until cancelled."""
        pause, losses = FIRST_PAUSE_S, 0
        while True:
            error = await self._one_worker()
            proven = self.up and trio.current_time() - self._loaded_at > PROVEN_S
            self._outbox = self._worker = None
            pause, losses = (FIRST_PAUSE_S, 1) if proven else (pause, losses + 1)
            if losses > 1 and not isinstance(error, LASTING):
                error = _again(error, losses, pause)
            logger.error("model %s: %s", self._settings.name, error)
            self._employer.lost(error)
            await trio.sleep(inf if isinstance(error, LASTING) else pause)
            pause = min(pause * 2, LAST_PAUSE_S)

    async def _one_worker(self) -> EngineError:
        """Run a worker until it fails; returns why."""
        failures: list[EngineError] = []
        try:
            directory = await self.locate(self._settings.source, self._settings.revision)
            await trio.to_thread.run_sync(self._check, directory, abandon_on_cancel=True)
            self.directory = directory
            self.choice = choose(self._settings, directory)
            self._employer.chosen(self.choice)
            if self.choice.engine == NONE:
                raise EngineMissing(f"engine: none, because {self.choice.reason}")
            self._place = await trio.to_thread.run_sync(
                self._find_place, directory, abandon_on_cancel=True
            )
            async with open_worker(self._command, os.environ) as worker:
                await self._employ(worker, directory)
        except* EngineError as group:
            failures += leaves(group)
        except* OSError as group:
            failures.append(EngineCrashed(f"no worker could be started: {group.exceptions[0]}"))
        return failures[0]

    async def locate(self, source: str, revision: str) -> Path:
        """Where the files of a model or adapter are; pulled first if they are nowhere here.

        Raises:
            EngineError: there are none, or they could not be pulled: what a worker's failure is.
        """
        try:
            return await self._located(source, revision)
        except EngineError:
            raise
        except R3mesError as error:  # a full disk, or a pull that somebody cancelled
            raise EngineError(error.detail, do=error.do) from error
        except OSError as error:
            raise EngineError(f"the files of {source} cannot be read: {error}") from error

    async def _located(self, source: str, revision: str) -> Path:
        library = Library(self._settings.library) if self._settings.library else None
        look = partial(is_here, source, revision, library)
        if self._fetch and not await trio.to_thread.run_sync(look, abandon_on_cancel=True):
            return await self._fetch(source, revision)
        find = partial(find_model, source, revision, library)
        return await trio.to_thread.run_sync(find, abandon_on_cancel=True)

    def _check(self, directory: Path) -> None:
        check_model(directory)
        self._check_memory(directory)

    def _check_memory(self, directory: Path) -> None:
        """Refuse what is sure not to fit; a GPU's memory is known to the worker only."""
        settings = self._settings
        cap, needed = settings.memory_bytes, needed_bytes(directory, settings.dtype)
        if cap is not None and needed > cap:
            raise ModelTooLarge(
                f"the weights take {needed >> 20} MiB and the worker may take {cap >> 20}",
                do="raise engine.memory_bytes or choose a smaller model",
            )
        on_gpu = settings.device.startswith("cuda") or (settings.device == "auto" and has_gpu())
        if not on_gpu and needed > (free := free_bytes()):
            raise ModelTooLarge(
                f"the weights take {needed >> 20} MiB and {int(free) >> 20} MiB of memory are free"
            )

    def _find_place(self, directory: Path) -> str:
        """Where the engine keeps what it makes of the model; empty if it makes nothing."""
        cache, exported = self._settings.cache, (directory / EXPORT).is_file()
        if self.choice.engine != OPENVINO or exported or cache is None:
            return ""
        return str(export_place(cache, directory))

    async def _employ(self, worker: Worker, directory: Path) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_memory, worker)
            began = trio.current_time()
            loaded = await self._load(worker, directory)
            # Never many: a start and a cancel for each slot, and pings.
            self._outbox, commands = trio.open_memory_channel[Command](inf)
            self._loaded_at = self._heard_at = trio.current_time()
            self._worker, self._speaking = worker, trio.Lock()
            nursery.start_soon(self._pass_on, worker, commands)
            nursery.start_soon(self._watch_silence, worker)
            await self._employer.loaded(loaded, worker.pid)
            logger.info(
                "model %s: loaded in %.1f s, %s in %s on %s; engine %s, because %s",
                self._settings.name, self._loaded_at - began,
                loaded.architecture, loaded.dtype, loaded.device,
                self.choice.engine, self.choice.reason,
            )  # fmt: skip
            while True:
                report = await worker.receive()
                self._heard_at = trio.current_time()
                try:
                    self._employer.heard(report)
                except WireError as error:
                    raise EngineCrashed(error.detail) from None

    async def _load(self, worker: Worker, directory: Path) -> Loaded:
        settings = self._settings
        load = Load(
            path=str(directory),
            engine=self.choice.engine,
            device=settings.device,
            dtype=settings.dtype,
            max_context=settings.max_context or 0,
            slots=settings.slots,
            threads=settings.threads or 0,
            programs=str(settings.programs or ""),
            weights=settings.weights,
            cache=self._place,
            kv_bytes=settings.kv_bytes or 0,
            memory_bytes=settings.memory_bytes or 0,
        )
        report: Report | None = None
        with trio.move_on_after(settings.load_timeout):
            await worker.send(load)
            report = await worker.receive()
        match report:
            case Loaded():
                _check_files(directory, report)
                return report
            case LoadFailed():
                raise failure(report)
            case None:
                raise EngineCrashed(f"loading took longer than {settings.load_timeout:g} s")
            case _:
                raise EngineCrashed(f"the worker said {type(report).__name__} before Loaded")

    async def _pass_on(self, worker: Worker, commands: trio.MemoryReceiveChannel[Command]) -> None:
        async for command in commands:
            async with self._speaking:
                await worker.send(command)

    async def _watch_silence(self, worker: Worker) -> None:
        """Ask for a sign of life when there is none; end a worker that gives none.

        One that computes may be silent for longer than one that stands still.
        """
        number, cpu_s, moved_at = 0, 0.0, 0.0
        looked_at = trio.current_time()
        while True:
            await trio.sleep(WATCH_EVERY_S)
            now = trio.current_time()
            if now - looked_at > PAUSED_S:  # it was this process that stood still
                self._heard_at = now
            looked_at = now
            if (used := worker.cpu_s()) != cpu_s:
                cpu_s, moved_at = used, now
            silent = now - self._heard_at
            if silent > self._settings.silence_timeout:
                raise EngineCrashed(f"the worker gave no sign of life for {silent:.1f} s")
            if (still := now - max(moved_at, self._heard_at)) > self._settings.frozen_timeout:
                raise EngineCrashed(f"the worker stood still for {still:.1f} s")
            if silent > WATCH_EVERY_S:
                number += 1
                self.send(Ping(number))

    async def _watch_memory(self, worker: Worker) -> None:
        """End a worker over its cap.

        A resource limit would not do: ``RLIMIT_AS`` fails with CUDA, which reserves address space
        by the terabyte, and a control group needs rights that the node may not have.
        """
        cap = self._settings.memory_bytes
        while cap is not None:
            await trio.sleep(WATCH_EVERY_S)
            if (taken := worker.memory_bytes()) > cap:
                raise EngineCrashed(
                    f"the worker took {taken >> 20} MiB and may take {cap >> 20}",
                    do="raise engine.memory_bytes, or choose a smaller model or context",
                )


def _check_files(directory: Path, loaded: Loaded) -> None:
    """Refuse a model that was pulled and is not any more what was pulled."""
    if kept := read_kept(directory):
        pulled = {name: file.sha256 for name, file in kept.manifest.files.items()}
        wrong = [name for name, sha256 in loaded.files if pulled.get(name) != sha256]
        if wrong:
            raise ModelInvalid(
                f"{wrong[0]} in {directory} is not what was pulled",
                do=f"run `r3mes models rm {kept.manifest.model}` and pull it again",
            )


def _again(error: EngineError, losses: int, pause: float) -> EngineError:
    """``error`` of a worker whose predecessors did no better."""
    detail = f"{error.detail} ({losses} times in a row; tried again in {pause:.1f} s)"
    return type(error)(detail, do=error.do)


def leaves(group: BaseExceptionGroup[E]) -> list[E]:
    """The errors in a group of groups."""
    found: list[E] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
