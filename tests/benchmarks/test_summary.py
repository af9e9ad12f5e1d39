"""Figures that are compared, from when tokens arrived."""

from random import Random

from benchmarks.asking import Answer, at_once, by_chance
from benchmarks.histograms import quantile_between
from benchmarks.inference import Found, figures
from benchmarks.shapes import LARGE, PAD, SMALL, entries
from benchmarks.summary import Row, ratios, ratios_by_load, timings, tokens_per_s


def row(engine: str, load: str, rate: float, model: str = "135M") -> Row:
    return Row(engine, "http", model, "bf16", load, rate, 1.0, 2.0, 3.0, 4.0)


def test_tokens_per_second_are_those_of_all_until_the_last() -> None:
    early = Answer(0.0, (0.5, 1.0), 10)
    late = Answer(1.0, (1.5, 4.0), 30)
    assert tokens_per_s([early, late]) == 10.0


def test_a_row_counts_from_each_request_and_between_pieces() -> None:
    plays = [[Answer(0.0, (0.1, 0.2, 0.4), 30)], [Answer(1.0, (1.3, 1.35), 35)]]
    assert timings(plays) == (87.5, 200.0, 300.0, 200.0)


def test_the_smallest_ratio_counts_and_chance_does_not() -> None:
    rows = [
        *(row("r3mes", load, 90) for load in ("1", "4", "16", "poisson")),
        *(row("vllm", load, rate) for load, rate in (("1", 30), ("4", 60), ("16", 45))),
        row("vllm", "poisson", 900),
        row("r3mes", "4", 80, model="15M"),
        row("vllm", "4", 100, model="15M"),
    ]
    assert ratios(rows)["vllm"] == 0.8
    assert {load: of["vllm"] for load, of in ratios_by_load(rows).items()} == {
        "1": 3.0,
        "4": 0.8,
        "16": 2.0,
    }


def test_what_was_not_measured_is_null_and_has_its_reason() -> None:
    found = Found(rows=[row("r3mes", "1", 50.0)], missing={"vllm": "no wheel"})
    result = figures(found, rate=2 * LARGE.weight_bytes * 50.0)
    assert result["ratios"]["vllm"] is None
    assert result["not_measured"]["ratios.vllm"] == "no wheel"
    assert result["not_measured"]["adapters_ratio"]
    assert result["bandwidth_share_batch1"] == 0.5
    assert "bandwidth_share_batch1" not in result["not_measured"]


def test_arrivals_by_chance_are_the_same_for_all_and_come_in_order() -> None:
    first, again = (by_chance(["a", "b", "c"], 2.0, Random(4)) for _ in range(2))  # noqa: S311
    assert first == again
    assert sorted(first, key=lambda one: one.at_s) == first
    assert {one.at_s for one in at_once(["a", "b"])} == {0.0}


def test_shapes_have_the_size_that_they_are_named_by() -> None:
    assert round(SMALL.parameters / 1e6) == 15
    assert round(LARGE.parameters / 1e6) == 135


def test_every_entry_of_a_tokenizer_is_reached_by_its_merges() -> None:
    made, merges = entries(SMALL.vocabulary)
    assert len(set(made)) == SMALL.vocabulary
    assert made[0] == PAD
    assert {left + right for left, right in merges} <= set(made)
    assert {part for merge in merges for part in merge} <= set(made)


def test_a_quantile_of_a_histogram_counts_what_came_between() -> None:
    before = {0.01: 90, 0.1: 90, float("inf"): 90}
    after = {0.01: 140, 0.1: 190, float("inf"): 190}
    assert quantile_between(before, after, 0.5) == 0.01
    assert round(quantile_between(before, after, 0.75), 4) == 0.055
