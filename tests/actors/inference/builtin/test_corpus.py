"""What the built-in model is taught must be true of this version, or the tests say so."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer.main

from r3mes.actors.inference.builtin.augment import ask, vary
from r3mes.actors.inference.builtin.phrasings import Topic, load_forms, load_topics, words
from r3mes.config.schema import Config
from r3mes.errors import REGISTRY
from r3mes.node.cli.root import app

TOPICS = load_topics()
FORMS = load_forms()
ROOT = Path(__file__).parents[4]
KEY = re.compile(r"(\w+)(?: = \S+)? under \[(\w+)\]")
CODES = {error.kind.id: error.kind.code for error in REGISTRY.values()}


def test_is_large_and_varied_enough() -> None:
    assert len(TOPICS) >= 70
    assert [t.id for t in TOPICS if len(t.train) < 12 or len(t.held_out) < 3] == []
    held_out = sum(len(t.held_out) for t in TOPICS)
    assert held_out >= sum(len(t.train) + len(t.held_out) for t in TOPICS) / 7
    assert len(FORMS.held_out) >= 5


def test_ids_are_unique() -> None:
    assert [i for i, n in Counter(t.id for t in TOPICS).items() if n > 1] == []


def test_answers_are_short() -> None:
    assert [t.id for t in TOPICS if len(t.answer.split()) > 40] == []


def test_what_is_held_out_is_nowhere_in_training() -> None:
    """Not even with the words in another order, in other case or with other marks."""
    trained = {words(question) for t in TOPICS for question in t.train}
    assert [q for t in TOPICS for q in t.held_out if words(q) in trained] == []
    assert not set(FORMS.held_out) & set(FORMS.train)


def test_no_phrasing_has_two_answers() -> None:
    asked: dict[frozenset[str], set[str]] = {}
    for topic in TOPICS:
        for question in topic.train + topic.held_out:
            asked.setdefault(words(question), set()).add(topic.id)
    assert [ids for ids in asked.values() if len(ids) > 1] == []


def test_error_codes_exist() -> None:
    texts = [text for t in TOPICS for text in (t.answer, *t.train, *t.held_out)]
    named = {code for text in texts for code in re.findall(r"R3-[A-Z]+-\d{3}", text)}
    assert named <= set(CODES)


@pytest.mark.parametrize("topic", [t for t in TOPICS if t.id.startswith("R3-")], ids=lambda t: t.id)
def test_answer_about_an_error_names_it(topic: Topic) -> None:
    assert topic.answer.startswith(f"{topic.id} ({CODES[topic.id]}): ")


def test_commands_exist() -> None:
    """Those in back quotes: ``r3mes config check`` must be one of the program's own."""
    program: Any = typer.main.get_command(app)
    for text in (t.answer for t in TOPICS):
        for first, second in re.findall(r"`r3mes ([a-z]+)(?: ([a-z]+))?", text):
            command = program.commands.get(first)
            assert command is not None, text
            assert not second or second in command.commands, text


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for t in TOPICS for name in re.findall(r"`make ([a-z]+)`", t.answer)}
    assert named <= targets


def test_configuration_keys_exist() -> None:
    """Each ``key under [section]`` of an answer is a key of the schema."""
    config = Config()
    named = {pair for t in TOPICS for pair in KEY.findall(t.answer)}
    assert len(named) > 8
    assert [pair for pair in named if not hasattr(getattr(config, pair[1], None), pair[0])] == []


def test_ports_and_chain_are_the_defaults() -> None:
    config = Config()
    by_id = {t.id: t.answer for t in TOPICS}
    assert config.api.listen in by_id["api-address"]
    assert config.p2p.listen[0].rpartition(":")[2] in by_id["p2p-port"]
    assert config.node.chain_id in by_id["chain-id"]


def _twice(seed: int) -> tuple[random.Random, random.Random]:
    return random.Random(seed), random.Random(seed)  # noqa: S311


def test_augmentation_is_a_function_of_the_seed() -> None:
    unknown = next(t for t in TOPICS if t.id == "unknown")
    first, again = ([ask(unknown, FORMS, rng) for _ in range(50)] for rng in _twice(3))
    assert first == again
    assert len(set(first)) > 40


def test_augmentation_leaves_the_digits_of_an_error_code() -> None:
    rng = random.Random(5)  # noqa: S311
    varied = [vary("R3-NET-004", FORMS, rng) for _ in range(300)]
    assert all("-004" in question for question in varied)
    assert len(set(varied)) > 10
