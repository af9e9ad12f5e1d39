"""Sixteen requests over four adapters beside sixteen of the model without any."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import median

import numpy as np
import trio
from safetensors.numpy import save_file

from benchmarks.asking import Answer, Endpoint, at_once, play
from benchmarks.contestants import NEW_TOKENS, OurDaemon
from benchmarks.daemons import Daemon
from benchmarks.report import say
from benchmarks.shapes import Shape, prompt
from benchmarks.summary import tokens_per_s

ADAPTERS, REQUESTS, RANK = 4, 16, 16
PROMPT_TOKENS = 64


def adapters_ratio(shape: Shape, model: Path, folder: Path, rounds: int) -> float:
    """Tokens a second with adapters over those without, the median of rounds in turn.

    The adapters have rank 16 and change every linear layer of the model.

    Args:
        shape: of the model.
        model: its directory.
        folder: for a node and the adapters; must not exist.
        rounds: how often both are played.
    """
    names = [f"a{number}" for number in range(ADAPTERS)]
    adapters = [
        {"model": "model", "name": name, "id": str(_save(shape, folder / name, seed))}
        for seed, name in enumerate(names)
    ]
    ours = OurDaemon(model, folder, {}, adapters=adapters)
    node = ours.node
    try:
        mixed, plain = [f"model:{name}" for name in names], ["model"] * ADAPTERS
        for name in mixed:
            node.wait_for_model(name)
        for asked in (mixed, plain):  # first requests are slow everywhere
            trio.run(_play, node, asked, 0)
        return round(median(_round(node, mixed, plain, seed + 1) for seed in range(rounds)), 3)
    finally:
        ours.end()


def _round(node: Daemon, mixed: Sequence[str], plain: Sequence[str], seed: int) -> float:
    with_, without = (trio.run(_play, node, asked, seed) for asked in (mixed, plain))
    say(f"{REQUESTS} requests: {with_:.0f} tokens/s over {ADAPTERS} adapters, "
        f"{without:.0f} of the model alone")  # fmt: skip
    return with_ / without


async def _play(node: Daemon, models: Sequence[str], seed: int) -> float:
    """Tokens a second of all requests, as many for each of ``models``."""
    random = Random(seed)  # noqa: S311  words, not secrets
    answers: list[Answer] = []

    async def ask(model: str, texts: Sequence[str]) -> None:
        body = {"model": model, "max_tokens": NEW_TOKENS}
        endpoint = Endpoint(node.url, "/v1/chat/completions", body, node.headers)
        answers.extend(await play(endpoint, at_once(texts)))

    async with trio.open_nursery() as nursery:
        for model in models:
            texts = [prompt(random, PROMPT_TOKENS) for _ in range(REQUESTS // len(models))]
            nursery.start_soon(ask, model, texts)
    return tokens_per_s(answers)


def _save(shape: Shape, directory: Path, seed: int) -> Path:
    """An adapter of random numbers."""
    random = np.random.default_rng(seed)
    keys = shape.hidden // shape.heads * shape.kv_heads
    layers = {
        "self_attn.q_proj": (shape.hidden, shape.hidden),
        "self_attn.k_proj": (shape.hidden, keys),
        "self_attn.v_proj": (shape.hidden, keys),
        "self_attn.o_proj": (shape.hidden, shape.hidden),
        "mlp.gate_proj": (shape.hidden, shape.ffn),
        "mlp.up_proj": (shape.hidden, shape.ffn),
        "mlp.down_proj": (shape.ffn, shape.hidden),
    }
    tensors = {
        f"base_model.model.model.layers.{layer}.{name}.lora_{part}.weight": random.normal(
            0, 0.05, size
        ).astype("float32")
        for layer in range(shape.layers)
        for name, (inputs, outputs) in layers.items()
        for part, size in (("A", (RANK, inputs)), ("B", (outputs, RANK)))
    }
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    targets = sorted({name.rpartition(".")[2] for name in layers})
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": targets}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return directory
