"""Trains the built-in model from the corpus: ``python -m r3mes.actors.inference.builtin.train``.

A Llama of 2 M parameters from nothing, loss on the answers only, two threads, everything drawn
from one seed: on one machine with one torch version the weights come out the same, bit for bit
(README.md says what differs between machines).
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
from itertools import islice
from pathlib import Path
from typing import Any

from r3mes.actors.inference.builtin import MODEL_DIR
from r3mes.actors.inference.builtin.augment import vary
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
STEPS = 3500
ROWS = 48
"""Question and answer pairs in a batch; conversations of n turns come ROWS/n at a time."""
PEAK_RATE = 2e-3
WARMUP = 100
TURNS, TURN_WEIGHTS = (1, 2, 4), (70, 18, 12)
CUT, CUT_SHARE = 12, 0.7
"""Most answers are learnt to their 12th token only: the question decides the first few tokens, the
rest is recited, and a step costs half."""
POOL = 4
"""So many batches are drawn together and sorted by length."""
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
            question = vary(self._rng.choice(topic.train), self._forms, self._rng)
            asked = self._encode(f"{USER} {question}{END}{ASSISTANT}")
            answer = self._answers[topic.id][:answer_tokens]
            ids += asked + answer
            labels += [NO_LOSS] * len(asked) + answer
        return ids, labels

    def batches(self) -> Iterator[list[Pair]]:
        """Batches without end; rows of like length share one, so that little is padding."""
        while True:
            turns = self._rng.choices(TURNS, TURN_WEIGHTS)[0]
            cut = CUT if turns == 1 and self._rng.random() < CUT_SHARE else None
            rows = ROWS // turns
            pool = [self.draw(turns, cut) for _ in range(rows * POOL)]
            pool.sort(key=lambda pair: len(pair[0]))
            batches = [pool[i : i + rows] for i in range(0, len(pool), rows)]
            self._rng.shuffle(batches)
            yield from batches


def train(out: Path, steps: int = STEPS) -> dict[str, Any]:
    """Trains and writes the model directory `out`.

    Returns:
        What was made: parameters, steps, seconds of wall clock and of CPU, hash of the weights.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    wall, cpu = time.perf_counter(), time.process_time()
    topics, forms = load_topics(), load_forms()
    tokenizer = train_tokenizer(_texts(topics, forms))
    model = _new_model(tokenizer)
    rng = random.Random(SEED)  # noqa: S311 not a secret
    _learn(model, Conversations(topics, forms, tokenizer, rng), steps, tokenizer.pad_token_id)
    _save(model, tokenizer, out)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "entries": len(tokenizer),
        "topics": len(topics),
        "steps": steps,
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "sha256": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
    }


def _texts(topics: Sequence[Topic], forms: Forms) -> list[str]:
    """What the tokenizer learns from; answers count more, since they are what is written."""
    texts = [f" {phrasing}" for topic in topics for phrasing in topic.train]
    texts += [topic.answer for topic in topics] * 4
    texts += [f" {form}" for form in forms.train + forms.systems]
    return texts + [text.lower() for text in texts]


def _new_model(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def _learn(model: Any, conversations: Conversations, steps: int, pad: int) -> None:
    import torch

    decayed = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
        lr=PEAK_RATE,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    model.train()
    for step, batch in enumerate(islice(conversations.batches(), steps), start=1):
        loss = _loss(model, batch, pad)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == steps:
            sys.stderr.write(f"step {step} of {steps}: loss {loss.item():.4f}\n")


def _loss(model: Any, batch: list[Pair], pad: int) -> Any:
    """Mean cross-entropy of the answers' tokens; the head runs on their positions only."""
    import torch

    longest = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row, _ in batch])
    labels = torch.tensor([row + [NO_LOSS] * (longest - len(row)) for _, row in batch])[:, 1:]
    # Rows are padded behind, so the causal mask alone keeps padding away from what counts.
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    kept = labels != NO_LOSS
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[kept]), labels[kept])


def _rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))


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


def main() -> None:
    """Command line: trains, prints what was made as one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m r3mes.actors.inference.builtin.train")
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="directory to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer steps for a trial")
    options = parser.parse_args()
    made = train(options.out, options.steps)
    sys.stdout.write(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
