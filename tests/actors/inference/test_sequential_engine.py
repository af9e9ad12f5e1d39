"""The engine in this process, against transformers' own ``generate``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from r3mes.actors.inference.engine import Event, Job
from r3mes.actors.inference.files import hash_model
from r3mes.actors.inference.loading import load_model
from r3mes.actors.inference.sampling import Logits, Sampling
from r3mes.actors.inference.sequential_engine import PIECE, SequentialEngine
from r3mes.errors import EngineError, ModelInvalid, ModelMissing, R3mesError

ModelDir = Callable[..., Path]
torch.set_num_threads(1)  # as the worker does with models this small
PROMPT = tuple(range(5, 45))
LONG_PROMPT = tuple(5 + i * 7 % 390 for i in range(PIECE * 2 + 3))
SAMPLED = Sampling(temperature=0.8, top_k=50, top_p=0.95, seed=11)


def engine_for(path: Path, slots: int = 1) -> SequentialEngine:
    return SequentialEngine(
        load_model(path, device="cpu", dtype="auto", max_context=0), slots=slots
    )


def write(
    engine: SequentialEngine,
    prompt: tuple[int, ...] = PROMPT,
    emitted: tuple[int, ...] = (),
    sampling: Sampling = SAMPLED,
    max_new: int = 24,
) -> list[int]:
    engine.start(Job(1, prompt, emitted, sampling, max_new, frozenset()))
    ids: list[int] = []
    while engine.capacity.running:
        for event in engine.step():
            assert event.position == len(emitted) + len(ids)
            ids += event.ids
    return ids


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("prompt", [PROMPT, LONG_PROMPT], ids=["short", "long"])
def test_greedy_equals_generate(family: str, prompt: tuple[int, ...], model_dir: ModelDir) -> None:
    engine = engine_for(model_dir(family))
    with torch.inference_mode():
        whole = engine._module.generate(
            torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=399
        )
    expected = whole[0, len(prompt) :].tolist()
    assert len(set(expected)) > 2  # not a monotone that any mistake would give as well
    assert write(engine, prompt, sampling=Sampling()) == [i for i in expected if i != 399]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_engine_continues_exactly(family: str, dtype: str, model_dir: ModelDir) -> None:
    first, other = (recording(engine_for(model_dir(family, dtype))) for _ in range(2))
    whole = write(first[0], LONG_PROMPT)
    for at in range(1, len(whole), 9):
        other[1].clear()
        rest = write(other[0], LONG_PROMPT, tuple(whole[:at]), max_new=len(whole) - at)
        assert rest == whole[at:], at
        assert other[1][-len(rest) :] == first[1][-len(rest) :], at  # bit by bit


def recording(engine: SequentialEngine) -> tuple[SequentialEngine, list[bytes]]:
    """The engine, and the logits of each of its steps."""
    seen: list[bytes] = []
    forward = engine._forward

    def record(piece: list[int], cache: DynamicCache) -> Logits:
        logits = forward(piece, cache)
        seen.append(logits.tobytes())
        return logits

    engine._forward = record  # type: ignore[method-assign]
    return engine, seen


def test_the_seed_decides(model_dir: ModelDir) -> None:
    engine = engine_for(model_dir())
    answers = [write(engine, sampling=Sampling(1.0, seed=seed)) for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_slots_take_turns_and_do_not_touch_each_other(model_dir: ModelDir) -> None:
    engine = engine_for(model_dir(), slots=2)
    alone = [write(engine, prompt) for prompt in (PROMPT, LONG_PROMPT)]
    for number, prompt in enumerate((PROMPT, LONG_PROMPT)):
        engine.start(Job(number, prompt, (), SAMPLED, 24, frozenset()))
    assert engine.capacity.free_slots == 0
    together: list[list[int]] = [[], []]
    while engine.capacity.running:
        for event in engine.step():
            together[event.id] += event.ids
    assert together == alone


def test_cancel_between_two_steps(model_dir: ModelDir) -> None:
    engine = engine_for(model_dir())
    engine.start(Job(1, LONG_PROMPT, (), SAMPLED, 24, frozenset()))
    assert engine.step() == []  # the first piece of the prompt
    assert engine.cancel(1) == [Event(1, 0, ended="cancelled")]
    assert engine.cancel(1) == []
    assert engine.capacity.running == 0


def test_ends_before_a_stop_token(model_dir: ModelDir) -> None:
    engine = engine_for(model_dir())
    whole = write(engine)
    engine.start(Job(1, PROMPT, (), SAMPLED, 24, frozenset({whole[5]})))
    ended: list[Event] = []
    while engine.capacity.running:
        ended += [event for event in engine.step() if event.ended]
    assert ended == [Event(1, whole.index(whole[5]), ended="stop")]


def copy_of(path: Path, to: Path) -> Path:
    return Path(shutil.copytree(path, to / "model"))


def refused(path: Path, **options: Any) -> R3mesError:
    chosen: dict[str, Any] = {"device": "cpu", "dtype": "auto", "max_context": 0}
    with pytest.raises(R3mesError) as error:
        load_model(path, **(chosen | options))
    return error.value


def test_files_that_are_not_loaded(model_dir: ModelDir, tmp_path: Path) -> None:
    path = copy_of(model_dir(), tmp_path)
    config = json.loads((path / "config.json").read_text())
    weights = path / "model.safetensors"
    whole = weights.read_bytes()

    assert isinstance(refused(tmp_path / "none"), ModelMissing)

    (path / "config.json").write_text(
        json.dumps(config | {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}})
    )
    assert "code of its own" in refused(path).detail
    (path / "config.json").write_text("{")
    assert "cannot be read" in refused(path).detail
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    error = refused(path)
    assert isinstance(error, ModelInvalid)
    assert "lacks 9 weights" in error.detail
    (path / "config.json").write_text(json.dumps(config))

    for broken in (whole[: len(whole) // 2], b"not safetensors", b""):
        weights.write_bytes(broken)
        assert isinstance(refused(path), ModelInvalid)
    weights.rename(path / "pytorch_model.bin")
    assert "pickled (pytorch_model.bin)" in refused(path).detail
    (path / "pytorch_model.bin").unlink()
    assert isinstance(refused(path), ModelMissing)


def test_a_missing_gpu_is_an_error(model_dir: ModelDir) -> None:
    error = refused(model_dir(), device="cuda:99")
    assert type(error) is EngineError
    assert "cuda:99" in error.detail
    assert "not a device" in refused(model_dir(), device="quantum").detail
    assert "not a precision" in refused(model_dir(), dtype="float7").detail


def test_what_a_model_says_of_itself(model_dir: ModelDir) -> None:
    model = load_model(model_dir(), device="cpu", dtype="bfloat16", max_context=100)
    numerics = model.numerics
    assert (numerics.dtype, numerics.context, numerics.vocabulary) == ("bfloat16", 100, 400)
    assert numerics.stop_ids == (2,)
    assert torch.__version__ in numerics.numeric_class


def test_the_hash_is_of_every_file_that_counts(model_dir: ModelDir, tmp_path: Path) -> None:
    path = copy_of(model_dir(), tmp_path)
    before = hash_model(path)
    (path / "README.md").write_text("does not count")
    assert hash_model(path) == before == hash_model(model_dir())
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"):
        data = (path / name).read_bytes()
        (path / name).write_bytes(data + b" ")
        assert hash_model(path) != before, name
        (path / name).write_bytes(data)
