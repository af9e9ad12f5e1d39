"""The worker process: one model, no keys, no network; ``python -m r3mes.actors.inference.worker``.

Torch lives here and nowhere else, so that a crash, a hang or a hostile model file costs an
answer and not the node.  Commands come on standard input, reports go to standard output.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, TypeAlias, TypeVar

from r3mes.actors.inference.adapter_intake import AdapterIntake
from r3mes.actors.inference.choice import OPENVINO
from r3mes.actors.inference.engine import Engine, Event, Job
from r3mes.actors.inference.intake import Intake, Prepared
from r3mes.actors.inference.loaded import loaded_as
from r3mes.actors.inference.pipes import commands, reports, say
from r3mes.actors.inference.protocol import (
    AdapterPart,
    Build,
    Cancel,
    Command,
    Embed,
    Ended,
    Load,
    LoadAdapter,
    Loaded,
    LoadFailed,
    Ping,
    Pong,
    Start,
    UnloadAdapter,
    Wrote,
    pack_ids,
)
from r3mes.actors.inference.sandbox import confine
from r3mes.errors import EngineError

TOGETHER_S = 0.015
"""Tokens of so many seconds are reported together."""
NICE = 19
"""The daemon goes first: it refuses and relays within milliseconds, also when all cores compute.
In a service the scheduler weighs this against the daemon only, and not against other services."""
SMALL = 50_000_000
"""Parameters up to which one thread is best: threads that meet after each small product cost more
than they save, and twenty times so when other programs want the same cores."""

Inbox: TypeAlias = "SimpleQueue[Command | Prepared]"

E = TypeVar("E")
Open: TypeAlias = Callable[[Load], tuple[E, Loaded]]
"""Loads the model; raises `EngineError`."""
Serve: TypeAlias = Callable[[E, Loaded, Inbox, BinaryIO], None]
"""Obeys what comes in and reports by `say`; never returns."""


def run(open_engine: Open[Engine]) -> None:
    """Load one model, then write answers until standard input ends."""
    work(open_engine, _write_answers)


def work(open_engine: Open[E], serve: Serve[E]) -> None:
    """Be a worker: give up what it needs not, load one model, serve until standard input ends."""
    out, incoming = reports(), commands()
    load = next(incoming)
    if not isinstance(load, Load):
        raise TypeError("the first command must be Load")
    # Before any other thread starts: what is given up here, threads give up that start later.
    confine(
        Path(load.path),
        readable=(Path(load.programs),) if load.programs else (),
        writable=(Path(load.cache),) if load.cache else (),
    )
    os.nice(NICE)
    inbox: Inbox = SimpleQueue()
    threading.Thread(target=_queue, args=(incoming, inbox), daemon=True).start()
    try:
        engine, loaded = open_engine(load)
    except EngineError as error:
        say(out, LoadFailed(error.kind.code, error.detail, error.do))
        return
    say(out, loaded)
    serve(engine, loaded, inbox, out)


def _write_answers(engine: Engine, loaded: Loaded, inbox: Inbox, out: BinaryIO) -> None:
    _serve(engine, Intake(loaded, inbox.put), inbox, out)


def open_chosen(load: Load) -> tuple[Engine, Loaded]:
    """The engine that the daemon chose; imported here, where nothing can be reached any more."""
    if load.engine == OPENVINO:
        from r3mes.actors.inference.openvino.opening import open_openvino

        return open_openvino(load)
    return open_torch(load)


def open_torch(load: Load) -> tuple[Engine, Loaded]:
    """The engine on torch."""
    import torch

    from r3mes.actors.inference.loading import load_model
    from r3mes.actors.inference.native.opening import Wish
    from r3mes.actors.inference.self_test import open_engine

    directory = Path(load.path)
    model = load_model(
        directory, device=load.device, dtype=load.dtype, max_context=load.max_context
    )
    text, parameters = model.text, model.numerics.parameters
    if load.threads or parameters <= SMALL:
        torch.set_num_threads(load.threads or 1)
    programs = Path(load.programs) if load.programs else None
    wish = Wish(programs, directory, scaled=load.weights == "int8")
    engine = open_engine(
        model, wish, slots=load.slots, kv_bytes=load.kv_bytes, memory_bytes=load.memory_bytes
    )
    return engine, loaded_as(directory, engine.numerics, text, slots=load.slots)


def _queue(incoming: Iterator[Command], inbox: Inbox) -> None:
    """Queue commands as they come; when the daemon has gone, so has the worker."""
    for command in incoming:
        inbox.put(command)
    os._exit(0)


class _Mouth:
    """Reports events; quick tokens of one answer go together, as each report wakes the daemon."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._kept: dict[int, Wrote] = {}
        self._begun: set[int] = set()
        self._told_at = 0.0

    def tell(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.ids:
                kept = self._kept.get(event.id)
                kept = kept or Wrote(event.id, event.position, b"")
                ids, logprobs = kept.ids + pack_ids(event.ids), kept.logprobs + event.logprobs
                self._kept[event.id] = Wrote(event.id, kept.position, ids, logprobs)
            if event.ended or event.id not in self._begun:
                self._tell_kept(event.id)  # the first token and the end at once
                self._begun.add(event.id)
            if event.ended:
                self._begun.discard(event.id)
                say(self._out, Ended(event.id, event.ended, event.why))
        if time.monotonic() - self._told_at >= TOGETHER_S:
            for job_id in list(self._kept):
                self._tell_kept(job_id)

    def _tell_kept(self, job_id: int) -> None:
        if kept := self._kept.pop(job_id, None):
            say(self._out, kept)
            self._told_at = time.monotonic()


def _serve(engine: Engine, intake: Intake, inbox: Inbox, out: BinaryIO) -> None:
    """Obey what has come, then do one step; wait only when there is nothing to write."""
    mouth, adapters = _Mouth(out), AdapterIntake(engine.adapters)
    while True:
        while not inbox.empty() or not engine.capacity.running:
            command = inbox.get()
            if isinstance(command, LoadAdapter | AdapterPart | UnloadAdapter):
                if (report := adapters.take(command)) is not None:
                    say(out, report)
            else:
                _obey(engine, intake, command, out, mouth)
        mouth.tell(engine.step())


def _obey(
    engine: Engine,
    intake: Intake,
    command: Build | Load | Start | Prepared | Cancel | Ping | Embed,
    out: BinaryIO,
    mouth: _Mouth,
) -> None:
    match command:
        case Start() | Prepared():
            made = intake.take(command) if isinstance(command, Start) else intake.prepared(command)
            if isinstance(made, Job):
                engine.start(made)
            elif made is not None:
                mouth.tell([made])
        case Cancel(id=job_id):
            unprepared = intake.cancel(job_id)
            mouth.tell([unprepared] if unprepared else engine.cancel(job_id))
        case Ping(number=number):
            say(out, _pong(number, engine))
        case Build() | Load() | Embed():
            raise TypeError("a worker loads one model, and writes with it")


def _pong(number: int, engine: Engine) -> Pong:
    now = engine.capacity
    return Pong(
        number,
        now.running,
        now.free_slots,
        engine.gpu_bytes,
        prompt_tokens=now.prompt_tokens,
        cached_tokens=now.cached_tokens,
        kv_bytes=now.kv_bytes,
    )


if __name__ == "__main__":
    run(open_chosen)
