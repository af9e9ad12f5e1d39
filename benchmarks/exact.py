"""Does an answer keep its bits when it goes on in another process, alone or among strangers?

One process writes each answer, greedy and seeded.  Another one is given the prompt and the tokens
up to every 10th position, and goes on: the hash of the logits behind each of the next 8 tokens must
be the one that the first process had.

    python -m benchmarks.exact --json
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from random import Random
from threading import Thread
from typing import Any

import platformdirs

import r3mes.actors.inference.builtin as builtin
from benchmarks.report import arguments, machine, print_result, say
from benchmarks.shapes import LARGE, SMALL, build

LENGTH, EVERY, COMPARED = 64, 10, 8
"""Tokens of an answer; it goes on from every so many; so many of them are compared."""
TOGETHER = 12
"""Continuations in one batch; strangers that nobody looks at come to them."""
STRANGERS = 4
GREEDY, SEEDED = 0.0, 0.8
WORDS = (8, 120)
"""Length of a prompt of random tokens, least and most."""
BUILTIN = "builtin"
QUICK_SHARE = 25
"""A quick run takes one prompt of so many."""


@dataclass(frozen=True, slots=True)
class Written:
    """An answer by the first process, and how it came about."""

    job: dict[str, Any]
    tokens: list[int]
    hashes: list[str]

    def rest(self, position: int, owner: str) -> dict[str, Any]:
        """The job of going on from ``position``."""
        emitted = self.tokens[:position]
        return {**self.job, "emitted": emitted, "max_new": COMPARED, "owner": owner}


class Writer:
    """A process of `benchmarks.replaying`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.numeric_class: str = self._read()["numeric_class"]

    def write(self, jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """What was written for each job, all of them together."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(jobs) + "\n")
        self._process.stdin.flush()
        seen: list[dict[str, Any]] = self._read()
        return seen

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the writer ended with {self._process.wait()}"
        return json.loads(line)


@contextmanager
def writer(model: Path) -> Iterator[Writer]:
    """A process that has loaded the model."""
    argv = [sys.executable, "-m", "benchmarks.replaying", str(model)]
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield Writer(process)
    finally:
        process.kill()
        process.wait()


def questions(count: int) -> list[list[int]]:
    """Prompts for the built-in model, as its chat template makes them."""
    from tokenizers import Tokenizer

    folder = Path(builtin.__file__).parent
    files = sorted((folder / "corpus").glob("*.toml"))
    topics = [topic for file in files for topic in tomllib.loads(file.read_text()).get("topic", ())]
    texts = [text for topic in topics for text in topic["held_out"]]
    tokenizer = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    form = "<|begin|><|user|> {}<|end|><|assistant|>"
    chosen = Random(1).sample(texts, count)  # noqa: S311  which questions, no secrets
    return [tokenizer.encode(form.format(text)).ids for text in chosen]


def random_tokens(count: int, vocabulary: int) -> list[list[int]]:
    """Prompts for models that have learnt nothing."""
    random = Random(2)  # noqa: S311  tokens, no secrets
    lengths = [random.randint(*WORDS) for _ in range(count)]
    return [[random.randrange(1, vocabulary) for _ in range(length)] for length in lengths]


def compare(name: str, model: Path, prompts: Sequence[list[int]]) -> tuple[Counter[str], str]:
    """Counts of what was compared and of what was equal; the numeric class."""
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        first, second = (stack.enter_context(writer(model)) for _ in range(2))
        assert first.numeric_class == second.numeric_class
        written: Queue[Written | None] = Queue()
        Thread(target=_write_all, args=(first, prompts, written), daemon=True).start()
        waiting: list[tuple[Written, int]] = []
        while (answer := written.get()) is not None:
            counts["answers"] += 1
            for position in range(0, LENGTH - COMPARED + 1, EVERY):
                owner = f"{counts['answers']} {position}"  # so that nothing is recalled
                (seen,) = second.write([answer.rest(position, owner)])
                _count(counts, "continuations", answer, position, seen)
                waiting.append((answer, position))
            while len(waiting) >= TOGETHER:
                batch, waiting = waiting[:TOGETHER], waiting[TOGETHER:]
                _go_on_together(second, batch, counts)
            if counts["answers"] % 20 == 0:
                say(f"{name}: {dict(counts)}")
        _go_on_together(second, waiting, counts)
        numeric_class = first.numeric_class
    counts["prompts"] = len(prompts)
    say(f"{name}: {dict(counts)}")
    return counts, numeric_class


def _write_all(first: Writer, prompts: Sequence[list[int]], written: Queue[Written | None]) -> None:
    """Each prompt alone, greedy and seeded."""
    for seed, prompt in enumerate(prompts):
        for temperature in (GREEDY, SEEDED):
            job = {"prompt": prompt, "temperature": temperature, "seed": seed}
            whole = {**job, "emitted": [], "max_new": LENGTH, "owner": ""}
            (seen,) = first.write([whole])
            written.put(Written(job, **seen))
    written.put(None)


def _go_on_together(
    second: Writer, batch: Sequence[tuple[Written, int]], counts: Counter[str]
) -> None:
    """Go on with all of ``batch`` at once, among strangers that begin and end at other times."""
    if not batch:
        return
    random = Random(counts["in_batch"])  # noqa: S311  tokens, no secrets
    strangers = [
        {
            "prompt": [random.choice(batch[0][0].tokens) for _ in range(random.randint(1, 200))],
            "emitted": [],
            "temperature": SEEDED,
            "seed": number,
            "max_new": random.randint(1, 2 * COMPARED),
            "owner": "",
        }
        for number in range(STRANGERS)
    ]
    jobs = [answer.rest(position, "") for answer, position in batch]  # prompts may be recalled
    for (answer, position), seen in zip(batch, second.write([*jobs, *strangers]), strict=False):
        _count(counts, "in_batch", answer, position, seen)


def _count(
    counts: Counter[str], kind: str, answer: Written, position: int, seen: dict[str, Any]
) -> None:
    span = slice(position, position + COMPARED)
    counts[kind] += 1
    counts[f"{kind}_bit_equal"] += seen["hashes"] == answer.hashes[span]
    counts[f"{kind}_tokens_equal"] += seen["tokens"] == answer.tokens[span]


def main() -> None:
    """Run every model and print the counts."""
    options = arguments(__doc__ or "", cache="where models are kept")
    cache = Path(options.cache or platformdirs.user_cache_path("r3mes-benchmarks"))
    share = QUICK_SHARE if options.quick else 1
    plans = [(BUILTIN, builtin.MODEL_DIR, questions(200 // share))]
    for shape, count in ((SMALL, 50), (LARGE, 20)):
        if not options.quick or shape is SMALL:
            prompts = random_tokens(count // share, shape.vocabulary)
            plans.append((shape.name, build(shape, cache), prompts))
    found = {name: compare(name, model, prompts) for name, model, prompts in plans}
    counts = sum((counted for counted, _ in found.values()), Counter[str]())
    costs = {f"cost_ratio_{load}": None for load in (1, 4, 16)}
    why = "there is no inexact way: exactness is a property of the operators"
    print_result(
        {
            "models": list(found),
            "prompts": counts["prompts"],
            "continuations": counts["continuations"],
            "logits_bit_equal": counts["continuations_bit_equal"],
            "tokens_equal": counts["continuations_tokens_equal"],
            "in_batch": counts["in_batch"],
            "in_batch_bit_equal": counts["in_batch_bit_equal"],
            "in_batch_tokens_equal": counts["in_batch_tokens_equal"],
            **costs,
            "numeric_class": {name: numeric_class for name, (_, numeric_class) in found.items()},
            "not_measured": dict.fromkeys(costs, why),
        }
        | machine()
    )


if __name__ == "__main__":
    main()
