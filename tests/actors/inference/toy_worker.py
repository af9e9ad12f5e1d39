"""A worker with everything but torch: it does what the last message says, a byte at a time."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from r3mes.actors.inference.engine import Capacity, Engine, Event, Job, Numerics
from r3mes.actors.inference.files import digests, hash_of
from r3mes.actors.inference.protocol import Load, Loaded
from r3mes.actors.inference.worker import run
from r3mes.errors import ModelInvalid

CONTEXT = 300
STEP_S = 0.005


class ToyAdapters:
    """Obeys the ``revision`` in a description; answers begin with it."""

    def __init__(self) -> None:
        self.words: dict[int, str] = {}

    @property
    def memory_bytes(self) -> int:
        return 1000 * len(self.words)

    def load(self, number: int, settings: Mapping[str, Any], weights: bytes) -> str:
        match settings["revision"]:
            case "die":
                os._exit(3)
            case "refuse":
                raise ModelInvalid("it does not suit the toy")
            case "stumble":
                raise KeyError("a library's mistake")
            case word:
                self.words[number] = word
        return "by the toy"

    def unload(self, number: int) -> None:
        self.words.pop(number, None)


class ToyEngine:
    def __init__(self, tokenizer: Tokenizer, slots: int) -> None:
        self.adapters = ToyAdapters()
        self._tokenizer = tokenizer
        self._slots = slots
        self._answers: dict[int, tuple[Job, list[int]]] = {}
        self._positions: dict[int, int] = {}
        self._started = 0
        self._hoard: list[bytes] = []

    @property
    def numerics(self) -> Numerics:
        return Numerics("Toy", 0, "none", "cpu", CONTEXT, 261, "toy", (2,))

    @property
    def capacity(self) -> Capacity:
        return Capacity(len(self._answers), self._slots - len(self._answers))

    @property
    def gpu_bytes(self) -> int:
        return 7 << 30

    def start(self, job: Job) -> None:
        self._started += 1
        text = self._tokenizer.decode(job.prompt, skip_special_tokens=False)
        found = re.search(r".*<\|user\|>(\w+) ?(.*)<\|end\|>", text, re.DOTALL)
        assert found is not None
        answer = self._obey(found[1], found[2])
        if job.adapter:
            answer = f"{self.adapters.words[job.adapter]} {answer}"
        ids = self._tokenizer.encode(answer).ids[len(job.emitted) :]
        self._answers[job.id] = (job, ids)
        self._positions[job.id] = len(job.emitted)

    def _obey(self, verb: str, rest: str) -> str:
        match verb:
            case "say":
                return rest
            case "count":
                return "x" * 1000
            case "started":
                return str(self._started)
            case "eat":
                self._hoard.append(b"x" * (400 << 20))
                return "full"
            case "fail":
                sys.stderr.write("reading 10 files\rLoading weights:  50%|#####     | 1/2\n")
                os._exit(3)
            case "ponder":
                time.sleep(0.5)
                return rest
            case "spin":
                while True:
                    pass
            case "adapters":
                return " ".join(sorted(self.adapters.words.values()))
            case "environ":
                return " ".join(sorted(os.environ))
            case "socket":
                return _attempt(lambda: socket.socket(getattr(socket, rest)).close())
            case "read":
                return _attempt(lambda: Path(rest).open("rb").close())
            case "write":
                return _attempt(lambda: Path(rest).write_text("x"))
        raise ValueError(verb)

    def cancel(self, job_id: int) -> Sequence[Event]:
        answer = self._answers.pop(job_id, None)
        return [Event(job_id, answer[0].max_new, ended="cancelled")] if answer else []

    def step(self) -> Sequence[Event]:
        time.sleep(STEP_S)
        return [self._advance(*answer) for answer in list(self._answers.values())]

    def _advance(self, job: Job, ids: list[int]) -> Event:
        """Write the next id; what was written is what ``ids`` lost."""
        position = self._positions[job.id]
        written = (ids.pop(0),) if ids else ()
        self._positions[job.id] += len(written)
        full = self._positions[job.id] - len(job.emitted) == job.max_new
        ended = "length" if full else "" if written else "stop"
        if ended:
            del self._answers[job.id]
        return Event(job.id, position, written, ended)


def _attempt(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as error:
        return str(error.strerror)
    return "done"


def open_toy(load: Load) -> tuple[Engine, Loaded]:
    if load.device == "slow":
        time.sleep(60)
    tokenizer = (Path(load.path) / "tokenizer.json").read_text()
    files = digests(Path(load.path))
    engine = ToyEngine(Tokenizer.from_str(tokenizer), load.slots)
    loaded = Loaded(
        hash=hash_of(files),
        architecture="Toy",
        parameters=0,
        dtype="none",
        device="cpu",
        context=CONTEXT,
        vocabulary=261,
        numeric_class="toy",
        slots=load.slots,
        tokenizer=tokenizer,
        chat_template=(Path(load.path) / "chat_template.jinja").read_text(),
        special_tokens=(("bos_token", "<|begin|>"), ("eos_token", "<|end|>")),
        stop_ids=(2,),
        files=tuple(files.items()),
        room=384 if load.device == "room" else 0,
        native="built" if (built := Path(load.programs, "built").exists()) else "not built yet",
        unbuilt=not built,
    )
    return engine, loaded


if __name__ == "__main__":
    run(open_toy)
