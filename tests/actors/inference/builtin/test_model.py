"""The committed weights: small, safe, loadable as any other model, and right about the node."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from r3mes.actors.inference.builtin import MODEL_DIR
from r3mes.actors.inference.builtin.evaluate import Answerer, plain, wrong
from r3mes.actors.inference.builtin.phrasings import load_topics


@pytest.fixture(scope="module")
def answerer() -> Answerer:
    return Answerer()


def prompt(messages: list[dict[str, Any]]) -> str:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(MODEL_DIR)
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def test_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL_DIR.iterdir()) <= 8_000_000


def test_holds_text_and_safetensors_only() -> None:
    """Nothing that is run when it is loaded."""
    kinds = {path.suffix for path in MODEL_DIR.iterdir()}
    assert kinds == {".safetensors", ".json", ".jinja"}
    assert "auto_map" not in json.loads((MODEL_DIR / "config.json").read_text())


def test_is_bf16_with_one_to_four_million_parameters() -> None:
    raw = (MODEL_DIR / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__", None)
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}
    last = max(tensor["data_offsets"][1] for tensor in header.values())
    assert 1_000_000 <= last // 2 <= 4_000_000


def test_generation_ends_with_the_turn() -> None:
    generation = json.loads((MODEL_DIR / "generation_config.json").read_text())
    tokens = json.loads((MODEL_DIR / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in tokens}
    assert generation["eos_token_id"] == ids["<|end|>"]
    assert generation["bos_token_id"] == ids["<|begin|>"]
    assert generation["pad_token_id"] == ids["<|pad|>"]


def test_template_takes_system_and_several_turns() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": [{"type": "text", "text": "r3mes status"}]},
    ]
    assert prompt(messages) == (
        "<|begin|><|system|> Be brief.<|end|><|user|> hello<|end|><|assistant|>Hello!<|end|>"
        "<|user|> r3mes status<|end|><|assistant|>"
    )


def test_template_refuses_an_unknown_role() -> None:
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match="tool"):
        prompt([{"role": "tool", "content": "42"}])


def test_no_text_is_unknown_to_the_tokenizer(answerer: Answerer) -> None:
    text = "Ünïcödé 日本 🚀 \x00 <b> R3-NET-004"
    tokenizer = answerer._tokenizer
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_answers_held_out_phrasings(answerer: Answerer) -> None:
    """A sample; ``python -m r3mes.actors.inference.builtin.evaluate`` asks all."""
    cases = plain(load_topics())[::24]
    answers = answerer.answer([case.messages for case in cases])
    assert len(wrong(cases, answers)) <= len(cases) * 0.2


def test_answers_behind_a_system_message_and_an_earlier_turn(answerer: Answerer) -> None:
    topics = {topic.id: topic for topic in load_topics()}
    asked = ("R3-STORE-003", "api-key-where", "demo")
    conversations = [
        [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What is a wallet?"},
            {"role": "assistant", "content": topics["what-is-wallet"].answer},
            {"role": "user", "content": topics[name].train[0]},
        ]
        for name in asked
    ]
    assert answerer.answer(conversations) == [topics[name].answer for name in asked]


@pytest.mark.slow
@pytest.mark.apart
def test_training_repeats_itself(tmp_path: Path) -> None:
    """Two short trainings in processes of their own end with the same bytes."""
    made = [
        subprocess.run(
            [sys.executable, "-m", "r3mes.actors.inference.builtin.train",
             "--steps", "2", "--out", tmp_path / name],
            capture_output=True, check=True, text=True,
        ).stdout.splitlines()[-1]
        for name in ("first", "second")
    ]  # fmt: skip
    first, second = (json.loads(line)["sha256"] for line in made)
    assert first == second
