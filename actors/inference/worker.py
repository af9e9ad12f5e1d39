"""The worker process: one model, no keys, no network; ``python -m r3mes.actors.inference.worker``.

Torch lives here and nowhere else, so that a crash, a hang or a hostile model file costs an
answer and not the node.  Commands come on standard input, reports go to standard output.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, BinaryIO

from r3mes.actors.inference.engine import Event, Job
from r3mes.actors.inference.files import hash_model
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
    Unframer,
    Wrote,
    decode_command,
    frame,
    pack_ids,
    unpack_ids,
)
from r3mes.actors.inference.sampling import Sampling
from r3mes.actors.inference.sandbox import die_with_parent, refuse_network
from r3mes.errors import EngineError

if TYPE_CHECKING:
    from r3mes.actors.inference.engine import Engine


def main() -> None:
    """Load one model, then write answers until standard input ends."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not end up between our frames
    die_with_parent()
    refuse_network()  # before any thread starts: a filter holds for a thread and its children
    inbox: SimpleQueue[Command] = SimpleQueue()
    threading.Thread(target=_read, args=(inbox,), daemon=True).start()
    load = inbox.get()
    if not isinstance(load, Load):
        raise TypeError("the first command must be Load")
    engine = _load(load, out)
    if engine is not None:
        _serve(engine, inbox, out)


def _read(inbox: SimpleQueue[Command]) -> None:
    """Queue commands as they come; when the daemon is gone, so is the worker."""
    unframer = Unframer()
    while data := os.read(0, 65536):
        for body in unframer.feed(data):
            inbox.put(decode_command(body))
    os._exit(0)


def _say(out: BinaryIO, report: Report) -> None:
    data = frame(report)
    while data:
        data = data[out.write(data) :]


def _load(load: Load, out: BinaryIO) -> Engine | None:
    import torch

    from r3mes.actors.inference.loading import load_model
    from r3mes.actors.inference.torch_engine import TorchEngine

    if load.threads:
        torch.set_num_threads(load.threads)
    directory = Path(load.path)
    try:
        model = load_model(
            directory, device=load.device, dtype=load.dtype, max_context=load.max_context
        )
    except EngineError as error:
        _say(out, LoadFailed(error.kind.code, error.detail, error.do))
        return None
    numerics, text = model.numerics, model.text
    loaded = Loaded(
        hash=hash_model(directory),
        architecture=numerics.architecture,
        parameters=numerics.parameters,
        dtype=numerics.dtype,
        device=numerics.device,
        context=numerics.context,
        vocabulary=numerics.vocabulary,
        numeric_class=numerics.numeric_class,
        slots=load.slots,
        tokenizer=text.tokenizer,
        chat_template=text.chat_template,
        special_tokens=text.special_tokens,
        stop_ids=numerics.stop_ids,
    )
    _say(out, loaded)
    return TorchEngine(model, slots=load.slots)


def _serve(engine: Engine, inbox: SimpleQueue[Command], out: BinaryIO) -> None:
    """Obey what has come, then do one step; wait only when there is nothing to write."""
    while True:
        while not inbox.empty() or not engine.capacity.running:
            _obey(engine, inbox.get(), out)
        for event in engine.step():
            _tell(event, out)


def _obey(engine: Engine, command: Command, out: BinaryIO) -> None:
    match command:
        case Start():
            engine.start(_job(command, engine.numerics.stop_ids))
        case Cancel(id=job_id):
            for event in engine.cancel(job_id):
                _tell(event, out)
        case Ping(number=number):
            capacity = engine.capacity
            _say(out, Pong(number, capacity.running, capacity.free_slots))
        case Load():
            raise TypeError("a worker loads one model")


def _tell(event: Event, out: BinaryIO) -> None:
    if event.ids:
        _say(out, Wrote(event.id, event.position, pack_ids(event.ids)))
    if event.ended:
        _say(out, Ended(event.id, event.ended))


def _job(start: Start, own_stop_ids: tuple[int, ...]) -> Job:
    return Job(
        id=start.id,
        prompt=unpack_ids(start.prompt),
        emitted=unpack_ids(start.emitted),
        sampling=Sampling(start.temperature, start.top_k, start.top_p, start.seed),
        max_new=start.max_new,
        stop_ids=frozenset(own_stop_ids).union(unpack_ids(start.stop_ids)),
    )


if __name__ == "__main__":
    main()
