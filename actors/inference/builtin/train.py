"""Trains the built-in model from the corpus: ``python -m r3mes.actors.inference.builtin.train``.

A Llama of 1.8 M parameters from nothing, loss on the answers only, everything drawn from one seed:
on one machine with one torch version the weights come out the same, bit for bit (README.md says
what differs between machines). One thread: the batches are too small for a second one to pay.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from r3mes.actors.inference.builtin import MODEL_DIR
from r3mes.actors.inference.builtin.augment import ask
from r3mes.actors.inference.builtin.phrasings import Forms, Topic, load_forms, load_topics
from r3mes.actors.inference.builtin.tokenizer import (
    ASSISTANT,
    BEGIN,
    CONTEXT,
    END,
    SYSTEM,
    USER,
    train_tokenizer,
)

SEED = 20261123
ROWS = 32
"""Question and answer pairs in a batch; conversations of n turns come ROWS/n at a time."""
POOL = 4
"""So many batches are drawn together and sorted by length."""
TURNS = (1, 2, 4)
CUT = 8


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of training with a schedule of its own; between two the weights pass through bf16.

    Args:
        steps: batches.
        rate: peak of the learning rate.
        warmup: steps to reach it; a cosine leads down from there.
        turns: weights of conversations of one, two and four turns.
        cut: share of the one-turn batches whose answers end at their eighth token.
    """

    steps: int
    rate: float
    warmup: int
    turns: tuple[int, int, int]
    cut: float


STAGES = (
    # The question decides the first few tokens, so most answers end there: a third of the cost.
    Stage(steps=2000, rate=2e-3, warmup=100, turns=(90, 5, 5), cut=0.94),
    # Then reciting to the end, also late in a conversation.
    Stage(steps=200, rate=6e-4, warmup=20, turns=(30, 30, 40), cut=0.0),
)
NO_LOSS = -100

Pair = tuple[list[int], list[int]]
"""Token ids and labels of one conversation; a label is NO_LOSS where nothing is to be learnt."""


class Conversations:
    """Draws conversations from the corpus and turns them into token ids."""

    def __init__(
        self, topics: Sequence[Topic], forms: Forms, tokenizer: Any, rng: random.Random
    ) -> None:
        self._topics, self._forms, self._rng = topics, forms, rng
        self._weights = [topic.weight for topic in topics]
        self._tokenizer = tokenizer
        self._answers = {t.id: self._encode(t.answer + END) for t in topics}

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def draw(self, turns: int, answer_tokens: int | None) -> Pair:
        """One conversation of `turns` questions, now and then behind a system message.

        Answers end after `answer_tokens`; whole ones if None.
        """
        opening = BEGIN
        if self._rng.random() < 0.15:
            opening += f"{SYSTEM} {self._rng.choice(self._forms.systems)}{END}"
        ids = self._encode(opening)
        labels = [NO_LOSS] * len(ids)
        for topic in self._rng.choices(self._topics, self._weights, k=turns):
            question = ask(topic, self._forms, self._rng)
            asked = self._encode(f"{USER} {question}{END}{ASSISTANT}")
            answer = self._answers[topic.id][:answer_tokens]
            ids += asked + answer
            labels += [NO_LOSS] * len(asked) + answer
        return ids, labels

    def batches(self, stage: Stage) -> Iterator[list[Pair]]:
        """Batches without end; rows of like length share one, so that little is padding."""
        while True:
            turns = self._rng.choices(TURNS, stage.turns)[0]
            cut = CUT if turns == 1 and self._rng.random() < stage.cut else None
            rows = ROWS // turns
            pool = [self.draw(turns, cut) for _ in range(rows * POOL)]
            pool.sort(key=lambda pair: len(pair[0]))
            batches = [pool[i : i + rows] for i in range(0, len(pool), rows)]
            self._rng.shuffle(batches)
            yield from batches


def train(out: Path, limit: int | None = None) -> dict[str, Any]:
    """Trains and writes the model directory `out`; `limit` ends each stage early, for a trial.

    Returns:
        What was made: parameters, steps, seconds of wall clock and of CPU, hash of the weights.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    wall, cpu = time.perf_counter(), time.process_time()
    topics, forms = load_topics(), load_forms()
    tokenizer = train_tokenizer(_texts(topics, forms))
    model = _new_model(tokenizer)
    stages = [replace(s, steps=min(s.steps, limit or s.steps)) for s in STAGES]
    for number, stage in enumerate(stages):
        rng = random.Random(SEED + number)  # noqa: S311 not a secret
        _learn(model, Conversations(topics, forms, tokenizer, rng), stage)
        model.to(torch.bfloat16).to(torch.float32)
    _save(model, tokenizer, out)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "entries": len(tokenizer),
        "topics": len(topics),
        "steps": sum(stage.steps for stage in stages),
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "sha256": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
    }


def _texts(topics: Sequence[Topic], forms: Forms) -> list[str]:
    """What the tokenizer learns from; answers count more, since they are what is written."""
    texts = [f" {phrasing}" for topic in topics for phrasing in topic.train]
    texts += [topic.answer for topic in topics] * 4
    texts += [f" {form}" for form in forms.train + forms.systems + forms.outside_forms]
    return texts + [text.lower() for text in texts]


def _new_model(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def _learn(model: Any, conversations: Conversations, stage: Stage) -> None:
    import torch

    decayed = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
        lr=stage.rate,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, stage))
    model.train()
    for step, batch in enumerate(islice(conversations.batches(stage), stage.steps), start=1):
        loss = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == stage.steps:
            sys.stderr.write(f"step {step} of {stage.steps}: loss {loss.item():.4f}\n")


def _loss(model: Any, batch: list[Pair]) -> Any:
    """Mean cross-entropy of the answers' tokens; the head runs on their positions only."""
    import torch

    pad = model.config.pad_token_id
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row, _ in batch])
    labels = torch.tensor([row + [NO_LOSS] * (longest - len(row)) for _, row in batch])[:, 1:]
    # Rows are padded behind, so the causal mask alone keeps padding away from what counts.
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    kept = labels != NO_LOSS
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[kept]), labels[kept])


def _rate(step: int, stage: Stage) -> float:
    """Share of the peak rate: up in a line, down in a cosine to a fiftieth."""
    if step < stage.warmup:
        return (step + 1) / stage.warmup
    done = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def _save(model: Any, tokenizer: Any, out: Path) -> None:
    import torch
    import transformers

    defaults: Any = transformers.GenerationConfig
    model.generation_config = defaults(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    for path in out.iterdir():
        path.chmod(0o644)  # the library makes the weights private, but nothing here is secret


def main() -> None:
    """Command line: trains, prints what was made as one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m r3mes.actors.inference.builtin.train")
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="directory to write")
    parser.add_argument("--steps", type=int, help="end each stage early, for a trial")
    options = parser.parse_args()
    made = train(options.out, options.steps)
    sys.stdout.write(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
