"""Answers written together, against transformers itself and against themselves alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from r3mes.actors.inference import drafting, reserve, self_test, slots
from r3mes.actors.inference.batching_engine import REPLAY, BatchingEngine, unheard
from r3mes.actors.inference.engine import Engine, Event, Job, Numerics
from r3mes.actors.inference.forward import Call
from r3mes.actors.inference.loading import LoadedModel, load_model
from r3mes.actors.inference.packed import PackedLinear
from r3mes.actors.inference.sampling import Logits, Sampling
from r3mes.actors.inference.seats import PIECE
from r3mes.actors.inference.self_test import open_engine
from r3mes.actors.inference.sequential_engine import SequentialEngine
from r3mes.actors.inference.text_parts import TextParts
from r3mes.errors import EngineError

torch.set_num_threads(1)  # as the worker does with models this small
ENTRIES, CONTEXT = 400, 640
SHORT = tuple(range(5, 45))
LONG = tuple(5 + i * 7 % 390 for i in range(PIECE * 2 + 3))
SAMPLED = Sampling(temperature=0.8, top_k=50, top_p=0.95, seed=11)
SHAPE: dict[str, Any] = {
    "vocab_size": ENTRIES,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
NARROW = {"head_dim": 12, "sliding_window": 24}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": SHAPE,
    "Qwen2": SHAPE,
    "Qwen3": SHAPE | {"head_dim": 12},
    "Qwen3Moe": SHAPE
    | {"head_dim": 12, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "Mistral": SHAPE | NARROW,
    "Gemma2": SHAPE | NARROW,
    "Gemma3Text": SHAPE | NARROW,
    "Phi3": SHAPE,
    "Olmo2": SHAPE,
    "SmolLM3": SHAPE,
    "Granite": SHAPE,
    "StableLm": SHAPE | {"hidden_size": 64},  # an even part of each head turns
    "Starcoder2": SHAPE,
    "GPT2": {
        "vocab_size": ENTRIES,
        "n_embd": 48,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": CONTEXT,
    },
    "OPT": SHAPE | {"ffn_dim": 96, "word_embed_proj_dim": 48},
    "Cohere": SHAPE,
    "Glm": SHAPE | {"head_dim": 12},
    "GPTNeoX": SHAPE,
}


def model_of(family: str, dtype: torch.dtype = torch.bfloat16) -> LoadedModel:
    """A small model with random weights, larger than the default: no answer is a monotone."""
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(7)
    config = getattr(transformers, f"{family}Config")(**FAMILIES.get(family, SHAPE))
    module = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    name = str(dtype).removeprefix("torch.")
    numerics = Numerics(family, 1, name, "cpu", CONTEXT, ENTRIES, "class", (2,))
    return LoadedModel(module.to(dtype).eval(), numerics, TextParts("", "", ()))


def batching(model: LoadedModel, slots: int = 4) -> BatchingEngine:
    engine = open_engine(model, slots=slots)
    assert isinstance(engine, BatchingEngine)
    return engine


def write(engine: Engine, *jobs: Job) -> dict[int, list[int]]:
    """The tokens of every job, of which some may run already."""
    for job in jobs:
        engine.start(job)
    ids: dict[int, list[int]] = {job.id: [] for job in jobs}
    while engine.capacity.running:
        for event in engine.step():
            ids[event.id] += event.ids
    return ids


def job(
    number: int,
    prompt: tuple[int, ...] = SHORT,
    emitted: tuple[int, ...] = (),
    sampling: Sampling = SAMPLED,
    max_new: int = 24,
) -> Job:
    return Job(number, prompt, emitted, sampling, max_new, frozenset())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_what_transformers_computes(family: str) -> None:
    model = model_of(family, torch.float32)
    model.module.set_attn_implementation(slots.NAME)
    engine = BatchingEngine(model, slots=2)
    seen: list[Logits] = []
    engine.on_logits = lambda number, _, logits: seen.append(logits) if number == 1 else None
    answer = write(engine, job(1, LONG), job(2))[1]
    whole = torch.tensor([[*LONG, *answer]])
    with torch.inference_mode():
        expected = model_of(family, torch.float32).module(whole).logits[0, len(LONG) - 1 : -1]
    ours = torch.tensor(np.stack(seen))
    assert len(set(answer)) > 2  # not a monotone that any mistake would give as well
    assert torch.equal(ours.argmax(-1), expected.argmax(-1))
    assert float((ours - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_bits_do_not_depend_on_the_others(family: str) -> None:
    engine = batching(model_of(family))
    assert "together, plan 3, exact" in engine.numerics.numeric_class
    seen = listening(engine)
    alone = write(engine, job(1, LONG))[1]
    bits = [*seen]
    assert len(set(alone)) > 2
    seen.clear()
    strangers = (job(2, SHORT[:3], max_new=5), job(3, LONG[:200], max_new=9), job(4, SHORT))
    again = replace(job(1, LONG), owner=b"among")  # what was kept would not be read again
    assert write(engine, *strangers, again)[1] == alone
    assert seen == bits
    for at in (1, 7, 23):
        seen.clear()
        rest = job(1, LONG, tuple(alone[:at]), max_new=24 - at)
        assert write(engine, job(4, SHORT), rest)[1] == alone[at:]
        assert seen == bits[at:]


def listening(engine: BatchingEngine) -> list[bytes]:
    """The logits of job 1, from now on."""
    seen: list[bytes] = []

    def note(number: int, _position: int, logits: Logits) -> None:
        if number == 1:
            seen.append(logits.tobytes())

    engine.on_logits = note
    return seen


def test_a_long_answer_goes_on_in_pieces() -> None:
    engine = batching(model_of("Llama"))
    whole = write(engine, job(1, max_new=3 * REPLAY))[1]
    rest = write(engine, job(1, SHORT, tuple(whole[:-5]), max_new=5))[1]
    assert rest == whole[-5:]


def test_answers_join_and_leave_between_steps() -> None:
    engine = batching(model_of("Llama"))
    lengths = {1: 30, 2: 4, 3: 17, 4: 9}
    alone = {n: write(engine, job(n, LONG[: 40 * n], max_new=m))[n] for n, m in lengths.items()}
    engine.start(job(1, LONG[:40], max_new=30))
    ids: dict[int, list[int]] = {number: [] for number in lengths}
    joining = [job(n, LONG[: 40 * n], max_new=m) for n, m in lengths.items() if n > 1]
    while engine.capacity.running:
        if joining and len(ids[1]) >= 2 * (4 - len(joining)):
            engine.start(joining.pop(0))
        for event in engine.step():
            ids[event.id] += event.ids
    assert ids == alone


def test_running_answers_go_on_while_a_prompt_is_read() -> None:
    engine = batching(model_of("Llama"))
    engine.start(job(1))
    engine.step()
    engine.start(job(2, LONG))
    events = [event.id for _ in range(3) for event in engine.step()]
    assert events == [1, 1, 1, 2]


def test_cancel_wherever_it_is() -> None:
    engine = batching(model_of("Llama"))
    alone = write(engine, job(3))[3]
    for number in (1, 2, 3):
        engine.start(job(number))
        engine.step()
    engine.start(job(4, LONG))
    assert engine.capacity.free_slots == 0
    assert engine.cancel(4) == [Event(4, 0, ended="cancelled")]
    (running,) = engine.cancel(1)
    assert (running.ended, running.position) == ("cancelled", 3)
    assert engine.cancel(1) == []
    assert engine.capacity.running == 2
    rest = [i for _ in range(30) for event in engine.step() if event.id == 3 for i in event.ids]
    assert rest == alone[1:]  # the one that moved into the place that became free


def test_a_model_that_remembers_in_its_own_way_is_run_in_turn(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shape = {"vocab_size": ENTRIES, "hidden_size": 48, "n_layer": 2, "n_head": 4}
    monkeypatch.setitem(FAMILIES, "Bloom", shape)
    engine = open_engine(model_of("Bloom", torch.float32), slots=4)
    assert isinstance(engine, SequentialEngine)
    assert "remember in a way of their own" in caplog.text
    assert "in turn, plan 1" in engine.numerics.numeric_class
    assert len(write(engine, job(1, max_new=3))[1]) == 3


@pytest.mark.parametrize(
    ("family", "more", "why"),
    [
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "the longest"),
        ("Llama", {"layer_types": ["chunked_attention"] * 2}, "layers of chunked_attention"),
        ("Mistral", {"sliding_window": CONTEXT}, "how far back"),
    ],
)
def test_what_only_long_answers_would_show_is_run_in_turn(
    family: str,
    more: dict[str, Any],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(FAMILIES, family, FAMILIES[family] | more)
    if family == "Mistral":
        monkeypatch.setattr(slots.SlotCache, "note_window", lambda _cache, _layer: None)
    assert isinstance(open_engine(model_of(family), slots=4), SequentialEngine)
    assert why in caplog.text


def test_nobody_listens_once_a_model_is_loaded() -> None:
    assert batching(model_of("Llama")).on_logits is unheard


def test_a_model_that_comes_out_wrong_is_run_in_turn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        slots,
        "_mask",
        lambda positions, span, _window: torch.ones(len(positions), span, dtype=torch.bool),
    )
    assert isinstance(open_engine(model_of("Llama"), slots=4), SequentialEngine)
    assert "away from those of transformers" in caplog.text


def test_a_model_whose_bits_depend_on_others_is_run_in_turn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(self_test, "pack", lambda _module: None)
    assert isinstance(open_engine(model_of("Llama", torch.float32), slots=4), SequentialEngine)
    assert "would depend on the others" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_row_does_not_depend_on_the_others(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    weight, bias = torch.randn(96, 1500).to(dtype), torch.randn(96).to(dtype)
    packed, rows = PackedLinear(weight, bias), torch.randn(70, 1500).to(dtype)
    whole = packed(rows)
    for first, last in ((0, 2), (3, 8), (11, 44), (68, 70)):
        assert torch.equal(packed(rows[first:last]), whole[first:last])
    plain = torch.nn.functional.linear(rows, weight, bias)
    assert torch.allclose(whole, plain, rtol=2e-2, atol=0.5)


def test_a_model_from_its_directory(model_dir: Callable[..., Path]) -> None:
    model = load_model(model_dir(), device="cpu", dtype="bfloat16", max_context=0)
    engine = batching(model)
    assert engine.cache.layers == 2
    assert set(write(engine, *(job(number) for number in range(4)))) == {0, 1, 2, 3}


def test_what_an_earlier_prompt_left_is_not_read_again_and_changes_no_bit() -> None:
    engine = batching(model_of("Llama"))
    seen = listening(engine)
    first = write(engine, job(1, LONG))[1]
    bits = [*seen]
    before = engine.capacity.cached_tokens
    seen.clear()
    assert write(engine, job(1, LONG))[1] == first
    assert seen == bits
    assert engine.capacity.cached_tokens - before == 2 * PIECE
    more = write(engine, job(2, LONG + SHORT))[2]
    assert engine.capacity.cached_tokens - before == 4 * PIECE
    assert more == write(engine, replace(job(2, LONG + SHORT), owner=b"another"))[2]


def test_what_one_asked_is_not_kept_for_another() -> None:
    engine = batching(model_of("Llama"))
    write(engine, replace(job(1, LONG), owner=b"one"))
    before = engine.capacity.cached_tokens
    write(engine, replace(job(1, LONG), owner=b"other"))
    assert engine.capacity.cached_tokens == before


def test_the_same_beginning_is_read_once_also_when_many_come_together() -> None:
    engine = batching(model_of("Llama"))
    before = engine.capacity.cached_tokens
    write(engine, *(job(number, (*LONG, number)) for number in range(4)))
    assert engine.capacity.cached_tokens - before == 3 * 2 * PIECE


def test_a_last_token_alone_is_read_with_the_same_bits_as_among_others() -> None:
    engine = batching(model_of("Llama"))
    seen = listening(engine)
    prompt = LONG[: PIECE + 1]
    alone = write(engine, replace(job(1, prompt, max_new=1), owner=b"alone"))[1]
    assert write(engine, job(2), job(1, prompt, max_new=1), job(3))[1] == alone
    assert seen[0] == seen[1]


def test_prompts_that_are_read_together_may_change_places_when_one_begins() -> None:
    engine = batching(model_of("Llama"))
    longer = LONG[: PIECE - 20]
    expected = write(engine, job(1, longer))[1], write(engine, job(2, SHORT))[2]
    for _ in range(2):  # in one of them the shorter comes first, and begins in the other's slot
        written = write(engine, job(1, longer), job(2, SHORT))
        assert (written[1], written[2]) == expected


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    engine = batching(model_of("Llama"))
    engine.start(job(9, max_new=CONTEXT - len(SHORT)))  # so that a step reads one piece only
    engine.step()
    engine.start(job(1, tuple(range(4)) * 140, max_new=1))
    engine.start(job(2, max_new=1))
    ended = [event.id for _ in range(20) for event in engine.step() if event.ended]
    assert ended == [2, 1]


@pytest.mark.parametrize("room", [CONTEXT, 1024])
def test_answers_that_outgrow_the_memory_are_put_back_and_keep_their_bits(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserve, "ANSWER", 8)  # far too little
    model = model_of("Llama")
    engine = batching(model)
    jobs = [job(number, LONG[: 90 * number], max_new=200) for number in range(1, 4)]
    seen = listening(engine)
    whole = write(engine, *jobs)
    bits, most = [*seen], 0
    small = BatchingEngine(model, slots=4, room=room)
    seen = listening(small)
    for one in jobs:
        small.start(one)
    ids: dict[int, list[int]] = {one.id: [] for one in jobs}
    while small.capacity.running:
        for event in small.step():
            ids[event.id] += event.ids
        most = max(most, small.capacity.kv_bytes)
    assert ids == whole
    assert seen == bits
    assert room * 0.9 <= most / small.cache.bytes_per_token <= room


def test_the_context_is_what_fits_into_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    per_token = 2 * 2 * 2 * 12 * 2  # layers, keys and values, heads, size, bytes
    engine = open_engine(model_of("Llama"), slots=4, kv_bytes=600 * per_token)
    assert (engine.numerics.context, engine.numerics.room) == (512, 600)
    assert "512 tokens and not 640" in caplog.text
    assert len(write(engine, *(job(number, max_new=470) for number in range(3)))[2]) == 470
    assert engine.capacity.kv_bytes <= 600 * per_token
    with pytest.raises(EngineError, match="200 tokens"):
        open_engine(model_of("Llama"), slots=4, kv_bytes=200 * per_token)


def test_the_budget_that_nobody_named() -> None:
    assert reserve.budget(weights=1 << 20, free=64 << 30, left=inf) == reserve.LEAST
    assert reserve.budget(weights=3 << 30, free=64 << 30, left=inf) == 3 << 30
    assert reserve.budget(weights=3 << 30, free=4 << 30, left=inf) == 1 << 30
    assert reserve.budget(weights=3 << 30, free=64 << 30, left=2 << 30) == 1 << 30


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED])
def test_drafts_save_calls_and_change_no_bit(
    sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, one = batching(model_of("Llama")), job(1, sampling=sampling, max_new=100)
    seen = listening(engine)
    calls: list[int] = []
    forward = engine._forward

    def counted(call: Call) -> Logits:
        calls.append(len(call.tokens))
        return forward(call)

    monkeypatch.setattr(engine, "_forward", counted)
    monkeypatch.setattr(drafting.Draft, "propose", lambda *_: [])
    plain = write(engine, one)[1]
    bits, without = [*seen], len(calls)

    def mostly_right(_draft: drafting.Draft, tokens: list[int], most: int) -> list[int]:
        at = len(tokens) - len(SHORT)
        return [*plain[at : at + at % 6], 7][:most]

    monkeypatch.setattr(drafting.Draft, "propose", mostly_right)
    seen.clear()
    calls.clear()
    assert write(engine, one)[1] == plain
    assert seen == bits
    assert len(calls) < without / 2
