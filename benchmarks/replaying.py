"""An engine in a process of its own that writes answers and tells a hash of the logits behind them.

    python -m benchmarks.replaying DIRECTORY

It opens the model as a worker does, with what a node has built for it on this machine, if it has.
Each line of JSON that comes is a list of jobs, which are written together; one goes back with what
was seen of each.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SLOTS = 16


def main() -> None:
    """Load, say so, and write what is asked for until standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not end up between our lines
    engine = _open(Path(sys.argv[1]))
    print(json.dumps({"numeric_class": engine.numerics.numeric_class}), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(_write(engine, json.loads(line))), file=out, flush=True)


def _open(directory: Path) -> Any:
    import torch

    from r3mes.actors.inference.loading import load_model
    from r3mes.actors.inference.native.opening import Wish
    from r3mes.actors.inference.self_test import open_engine
    from r3mes.config.paths import programs_directory

    torch.set_num_threads(1)  # two of these processes share the machine
    model = load_model(directory, device="cpu", dtype="auto", max_context=0)
    return open_engine(model, Wish(programs_directory(), directory), slots=SLOTS)


def _write(engine: Any, jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All jobs together, from the first step on."""
    from r3mes.actors.inference.engine import Job
    from r3mes.actors.inference.sampling import Sampling

    seen: list[dict[str, Any]] = [{"tokens": [], "hashes": []} for _ in jobs]

    def note(job: int, _position: int, logits: Any) -> None:
        digest = hashlib.blake2b(logits.tobytes(), digest_size=8)
        seen[job]["hashes"].append(digest.hexdigest())

    engine.on_logits = note
    for number, job in enumerate(jobs):
        prompt, emitted = tuple(job["prompt"]), tuple(job["emitted"])
        sampling = Sampling(temperature=job["temperature"], seed=job["seed"])
        owner = job["owner"].encode()
        engine.start(
            Job(number, prompt, emitted, sampling, job["max_new"], frozenset(), owner=owner)
        )
    while engine.capacity.running:
        for event in engine.step():
            seen[event.id]["tokens"] += event.ids
    return seen


if __name__ == "__main__":
    main()
