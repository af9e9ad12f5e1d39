"""What makes a comparison fair: turns, sampling, and models that are what their names say."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks import shapes
from benchmarks.asking import Endpoint, _request
from benchmarks.inference import rotated
from benchmarks.shapes import SMALL, mark


def test_everybody_is_the_first_once() -> None:
    rounds = [rotated(["a", "b", "c"], number) for number in range(4)]
    assert rounds == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]
    assert rotated([], 1) == []


def test_all_sample_with_one_seed() -> None:
    body = json.loads(_request(Endpoint("", "/", {"model": "m"}, {}), "x").split(b"\r\n\r\n")[1])
    assert (body["temperature"], body["top_p"], body["seed"]) == (1, 1, 1)


def test_another_model_has_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    before = mark(SMALL)
    assert mark(replace(SMALL, poisson_per_s=9.0)) == before
    assert mark(replace(SMALL, layers=7)) != before
    for name, value in (("SPREAD", 0.02), ("SEED", 16), ("TEMPLATE", "")):
        with monkeypatch.context() as patch:
            patch.setattr(shapes, name, value)
            assert mark(SMALL) != before
