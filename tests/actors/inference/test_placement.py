"""Models are spread over GPUs by what is free."""

from __future__ import annotations

import pytest

from r3mes.actors.inference.placement import Wish, place

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("wishes", "free", "placed"),
    [
        ([("a", "auto", 8)], {}, {"a": "auto"}),
        ([("a", "auto", 8), ("b", "auto", 8)], {"cuda:0": 20, "cuda:1": 20},
         {"a": "cuda:0", "b": "cuda:1"}),
        ([("small", "auto", 1), ("large", "auto", 30)], {"cuda:0": 24, "cuda:1": 40},
         {"large": "cuda:1", "small": "cuda:0"}),
        ([("a", "auto", 8), ("b", "auto", 8)], {"cuda:0": 20}, {"a": "cuda:0", "b": "cuda:0"}),
        ([("a", "auto", 8), ("fixed", "cuda", 12)], {"cuda:0": 20, "cuda:1": 12},
         {"a": "cuda:1", "fixed": "cuda"}),
        ([("a", "auto", 8), ("b", "cpu", 8)], {"cuda:0": 10}, {"a": "cuda:0", "b": "cpu"}),
        ([("huge", "auto", 80)], {"cuda:0": 24, "cuda:1": 24}, {"huge": "auto"}),
    ],
)  # fmt: skip
def test_the_largest_choose_first_where_most_is_left(
    wishes: list[tuple[str, str, int]], free: dict[str, int], placed: dict[str, str]
) -> None:
    wanted = [Wish(name, device, size * GB) for name, device, size in wishes]
    assert place(wanted, {device: size * GB for device, size in free.items()}) == placed
