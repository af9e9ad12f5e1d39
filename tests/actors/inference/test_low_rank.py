"""Adapters in a running model: against PEFT, among each other, and the bits that they keep."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from r3mes.actors.inference import slots
from r3mes.actors.inference.adapter_files import WIDTH
from r3mes.actors.inference.batching_engine import BatchingEngine
from r3mes.actors.inference.engine import Engine, Job
from r3mes.actors.inference.loading import load_model
from r3mes.actors.inference.low_rank import Adapters
from r3mes.actors.inference.sampling import Logits, Sampling
from r3mes.actors.inference.self_test import open_engine
from r3mes.actors.inference.sequential_engine import SequentialEngine
from r3mes.errors import ModelInvalid

torch.set_num_threads(1)
PROMPT = tuple(5 + i * 7 % 390 for i in range(150))
Directory = Callable[..., Path]
ENGINES: dict[str, Any] = {
    "together": BatchingEngine,
    "in turn": SequentialEngine,
    "with siblings": None,
}


def put(adapters: Adapters, number: int, directory: Path) -> bool:
    """Load the adapter in ``directory``; whether it keeps the bits."""
    settings = json.loads((directory / "adapter_config.json").read_text())
    weights = (directory / "adapter_model.safetensors").read_bytes()
    return adapters.load(number, settings, weights) == "adapters by 4, plan 1, exact"


def job(number: int, adapter: int, *, prompt: int = 40, max_new: int = 10) -> Job:
    sampling = Sampling(temperature=0.8, seed=3)
    return Job(number, PROMPT[:prompt], (), sampling, max_new, frozenset(), adapter)


def write(engine: Engine, *jobs: Job) -> dict[int, list[int]]:
    for one in jobs:
        engine.start(one)
    ids: dict[int, list[int]] = {one.id: list(one.emitted) for one in jobs}
    while engine.capacity.running:
        for event in engine.step():
            ids[event.id] += event.ids
    return ids


def opened(directory: Path, engine: str) -> Any:
    model = load_model(directory, device="cpu", dtype="auto", max_context=0)
    if engine == "with siblings":
        return open_engine(model, slots=6)
    if engine == "together":
        model.module.set_attn_implementation(slots.NAME)
    return ENGINES[engine](model, slots=6)


def merged(base: Path, adapter: Path) -> Any:
    """The model with the adapter's weights added to its own, by PEFT."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT asks transformers by a name that it will drop
        from peft import PeftModel

        model = load_model(base, device="cpu", dtype="auto", max_context=0).module
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"r": 5, "use_rslora": True}),
        (
            "llama",
            {"rank_pattern": {"q_proj": 9}, "alpha_pattern": {r"layers\.1\..*up_proj": 3}},
        ),
        ("gpt2", {"fan_in_fan_out": True}),
    ],
)
def test_an_answer_is_that_of_the_merged_weights(
    model_dir: Directory, adapter_dir: Directory, family: str, settings: dict[str, Any], engine: str
) -> None:
    base, adapter = model_dir(family), adapter_dir(family, **settings)
    running = opened(base, engine)
    put(running.adapters, 7, adapter)
    ids = write(running, job(1, 7), job(2, 0))
    for number, module in ((1, merged(base, adapter)), (2, opened(base, "in turn")._module)):
        with torch.inference_mode():
            whole = torch.tensor([[*PROMPT[:40], *ids[number]]])
            expected = module(whole).logits[0, -1].numpy()
        again = last_logits(running, job(1, 7 if number == 1 else 0), ids[number])
        assert abs(again - expected).max() < 2e-4 * abs(expected).max()
    assert ids[1] != ids[2]  # the adapter matters


def last_logits(engine: Any, one: Job, written: list[int]) -> Logits:
    """Of the token behind those that were written, which are read as a prompt."""
    prompt = (*one.prompt, *written)
    asked = Job(9, prompt, (), one.sampling, 1, frozenset(), one.adapter)
    if isinstance(engine, BatchingEngine):
        seen = listening(engine, 9)
        write(engine, asked)
        return seen[-1]
    engine.start(asked)
    answer = engine._answers.pop(9)
    engine.adapters.use([one.adapter] * len(prompt))
    logits: Logits = engine._forward(list(prompt), answer.cache)
    return logits


def listening(engine: BatchingEngine, number: int) -> list[Logits]:
    """The logits of a job, from now on."""
    seen: list[Logits] = []

    def note(job: int, position: int, logits: Logits) -> None:
        if job == number:
            seen.append(logits)

    engine.on_logits = note
    return seen


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_bits_of_an_answer_are_its_own(
    model_dir: Directory, adapter_dir: Directory, dtype: str
) -> None:
    """Alone, among strangers of other adapters, in another place of the stack, and continued."""
    base = model_dir("llama", dtype)
    model = load_model(base, device="cpu", dtype="auto", max_context=0)
    engine = open_engine(model, slots=6)
    assert isinstance(engine, BatchingEngine)
    directories = [adapter_dir(seed=seed, r=r) for seed, r in enumerate((4, 4, 12, 4, 4, 4), 1)]
    long = job(1, 1, prompt=140, max_new=16)
    assert put(engine.adapters, 1, directories[0])
    assert {len(names) for names in engine.adapters._groups} == {1, 2, 3}
    alone, bits = written_bits(engine, long)
    base_alone, base_bits = written_bits(engine, job(1, 0))

    for number, directory in enumerate(directories[1:], 2):
        assert put(engine.adapters, number, directory)
    strangers = [job(10 + n, n, prompt=5 + n, max_new=4 + n) for n in range(2, 6)]
    assert written_bits(engine, long, *strangers) == (alone, bits)
    assert written_bits(engine, job(1, 0), *strangers) == (base_alone, base_bits)

    engine.adapters.unload(1)
    put(engine.adapters, 17, directories[5])  # takes the place that is free
    put(engine.adapters, 18, directories[0])  # and so this one lies elsewhere
    for at in (1, 9):
        rest = Job(1, long.prompt, tuple(alone[:at]), long.sampling, 16 - at, frozenset(), 18)
        assert written_bits(engine, rest, *strangers) == (alone, bits[at:])


def written_bits(engine: BatchingEngine, one: Job, *others: Job) -> tuple[list[int], list[bytes]]:
    """Tokens and logits of the first of some jobs that are written together."""
    seen = listening(engine, one.id)
    ids = write(engine, *others, one)[one.id]
    return ids, [logits.tobytes() for logits in seen]


def test_four_adapters_in_one_batch_answer_as_each_by_itself(
    model_dir: Directory, adapter_dir: Directory
) -> None:
    engine = opened(model_dir("qwen3"), "together")
    for number in range(1, 5):
        put(engine.adapters, number, adapter_dir(seed=number))
    jobs = [job(number, number % 5) for number in range(1, 7)]
    together = write(engine, *jobs)
    assert together == {one.id: write(engine, one)[one.id] for one in jobs}
    assert len({tuple(ids) for ids in together.values()}) == 5  # of 1 and 6 it is the same


def test_without_an_adapter_at_work_nothing_hangs_on_the_model(
    model_dir: Directory, adapter_dir: Directory
) -> None:
    engine = opened(model_dir(), "together")
    module = engine.adapters._module

    def hooks() -> int:
        return sum(len(one._forward_hooks) for one in module.modules())

    before = hooks()
    put(engine.adapters, 1, adapter_dir())
    write(engine, job(1, 0))
    assert hooks() == before
    engine.start(job(2, 1))
    engine.step()
    assert hooks() == before + 10
    engine.cancel(2)
    write(engine, job(3, 0))
    assert hooks() == before
    engine.adapters.unload(1)
    assert engine.adapters.memory_bytes == 0


def test_what_is_unloaded_gives_its_place_and_memory_back(
    model_dir: Directory, adapter_dir: Directory
) -> None:
    adapters = opened(model_dir(), "together").adapters
    directory = adapter_dir()
    for number in range(1, WIDTH + 1):
        put(adapters, number, directory)
    one_stack = adapters.memory_bytes
    put(adapters, 9, directory)
    assert adapters.memory_bytes == 2 * one_stack
    adapters.unload(9)
    adapters.unload(2)
    put(adapters, 10, directory)
    assert adapters.memory_bytes == one_stack


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ({"model.layers.0.self_attn.q_proj": (64, 48)}, "of another model: .* 48 numbers of 48"),
        ({"model.layers.7.self_attn.q_proj": (48, 48)}, "no layer model.layers.7"),
        ({"model.embed_tokens": (400, 48)}, "no linear layer"),
        ({"lm_head": (48, 400)}, "no linear layer"),
    ],
)
def test_what_does_not_suit_the_model_is_refused(
    model_dir: Directory,
    save: Callable[..., Path],
    layers: dict[str, tuple[int, int]],
    why: str,
) -> None:
    engine = opened(model_dir(), "together")
    with pytest.raises(ModelInvalid, match=why):
        put(engine.adapters, 1, save(layers))
    assert engine.adapters.memory_bytes == 0
    assert write(engine, job(1, 0))


def test_numbers_that_are_none_are_refused(model_dir: Directory, adapter_dir: Directory) -> None:
    from safetensors.torch import load_file, save_file

    directory = adapter_dir(seed=9)
    file = directory / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, file)
    engine = opened(model_dir(), "together")
    with pytest.raises(ModelInvalid, match="not all numbers"):
        put(engine.adapters, 1, directory)
