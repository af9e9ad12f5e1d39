"""Our operators against torch's, and a row among others against the same row alone."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from r3mes.actors.inference.native.operators import (
    NativeLinear,
    Pair,
    attend,
    replace_linears,
    restore_linears,
    rows_now,
)
from r3mes.actors.inference.native.place import KEPT_S, LOCK, tidy

pytestmark = [pytest.mark.apart, pytest.mark.usefixtures("operators")]
torch.set_num_threads(1)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).to(torch.bfloat16)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 2), (33, 48), (96, 80), (64, 574)])
def test_a_linear_layer_computes_what_torch_computes(outputs: int, inputs: int, bias: bool) -> None:
    torch.manual_seed(1)
    weight, plus = random(outputs, inputs), random(outputs) if bias else None
    rows = random(3, 5, inputs)
    made = NativeLinear.of(weight, plus)(rows)
    expected = functional.linear(
        rows.float(), weight.float(), None if plus is None else plus.float()
    )
    assert made.shape == (3, 5, outputs)
    torch.testing.assert_close(made.float(), expected, atol=1e-2, rtol=1e-2)


def test_weights_in_bytes_are_as_close_as_bytes_can_be() -> None:
    torch.manual_seed(1)
    weight, rows = random(70, 96) * torch.rand(70, 1).to(torch.bfloat16), random(5, 96)
    layer = NativeLinear.of(weight, None, scaled=True)
    step = weight.float().abs().amax(1, keepdim=True) / 127
    # Half a step, and what a number of 8 bits of its own loses.
    assert ((layer.weight.float() - weight.float()).abs() <= step * 1.1).all()
    expected = functional.linear(rows.float(), layer.weight.float())
    torch.testing.assert_close(layer(rows).float(), expected, atol=3e-2, rtol=2e-2)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_has_the_same_bits_in_any_company(threads: int, scaled: bool) -> None:
    torch.manual_seed(2)
    layer, rows = NativeLinear.of(random(1100, 576), random(1100), scaled=scaled), random(130, 576)
    whole = layer(rows)
    torch.set_num_threads(threads)
    try:
        for begin, count in [(0, 1), (7, 1), (3, 2), (0, 5), (9, 12), (1, 13), (2, 25), (0, 129)]:
            assert torch.equal(layer(rows[begin : begin + count]), whole[begin : begin + count])
    finally:
        torch.set_num_threads(1)


def test_layers_are_put_back_as_they_were() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 40), nn.Sequential(nn.Linear(40, 6, bias=False)))
    model = model.to(torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    replace_linears(model, NativeLinear.of)
    assert isinstance(model[0], NativeLinear)
    restore_linears(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_odd_layer_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="9 inputs"):
        replace_linears(nn.Sequential(nn.Linear(9, 4).to(torch.bfloat16)), NativeLinear.of)


@dataclass(frozen=True, slots=True)
class Cache:
    """Caches of one layer, and whose turn it is."""

    slots: torch.Tensor
    positions: torch.Tensor
    caches: Pair

    def pair(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Pair:
        return self.caches


class Layer:
    layer_idx = 0


def attended(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cache: Cache, **options: Any
) -> torch.Tensor:
    """The result for rows (rows, heads, size), as the model calls it."""
    token = rows_now.set(cache)
    try:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return attend(Layer(), q, k, v, None, **options)[0][0]
    finally:
        rows_now.reset(token)


@pytest.mark.parametrize("size", [12, 48, 64, 80, 256])
@pytest.mark.parametrize("options", [{}, {"sliding_window": 9}, {"softcap": 5.0, "scaling": 0.3}])
def test_rows_attend_to_their_own_answer(size: int, options: dict[str, Any]) -> None:
    torch.manual_seed(4)
    length, heads, kv_heads = 40, 6, 2
    q, k, v = (
        random(length, heads, size),
        random(length, kv_heads, size),
        random(length, kv_heads, size),
    )
    caches = random(3, 64, kv_heads, size), random(3, 64, kv_heads, size)
    at, ones = torch.arange(length), torch.ones(length, dtype=torch.int64)
    whole = attended(q, k, v, Cache(ones, at, caches), **options)
    expected = by_hand(q, k, v, **options)
    torch.testing.assert_close(whole.float(), expected, atol=2e-2, rtol=2e-2)
    # The last row again, alone, and as one of two answers in other slots.
    alone = attended(q[-1:], k[-1:], v[-1:], Cache(ones[:1], at[-1:], caches), **options)
    caches[0][2], caches[1][2] = caches[0][1], caches[1][1]
    pair = Cache(torch.tensor([0, 2]), torch.tensor([3, length - 1]), caches)
    q, k, v = (torch.cat([x[:1], x[-1:]]) for x in (q, k, v))
    among = attended(q, k, v, pair, **options)
    assert torch.equal(alone[0], whole[-1])
    assert torch.equal(among[1], whole[-1])


def by_hand(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sliding_window: int = 0,
    softcap: float = 0,
    scaling: float = 0,
) -> torch.Tensor:
    """Causal attention in float32, shape (rows, heads, size)."""
    group = q.shape[1] // k.shape[1]
    query, key, value = (x.float().transpose(0, 1) for x in (q, k, v))
    key, value = (x.repeat_interleave(group, 0) for x in (key, value))
    scores = query @ key.transpose(1, 2) * (scaling or q.shape[-1] ** -0.5)
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    behind = torch.arange(len(q))[:, None] - torch.arange(len(q))
    seen = (behind >= 0) & (behind < (sliding_window or len(q)))
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return (weights @ value).transpose(0, 1)


def test_a_row_outside_of_the_cache_is_refused() -> None:
    caches = random(2, 8, 1, 12), random(2, 8, 1, 12)
    row = random(1, 1, 12)
    for slot, position in [(2, 0), (-1, 0), (0, 8), (0, -1)]:
        cache = Cache(torch.tensor([slot]), torch.tensor([position]), caches)
        with pytest.raises(RuntimeError, match="outside of the cache"):
            attended(row, row, row, cache)


def test_what_nobody_needs_any_more_is_removed(tmp_path: Path) -> None:
    for name in (LOCK, "kernels-a.so", "kernels-b.so", "17-kernels-c.so"):
        (tmp_path / name).touch()
    old = time.time() - KEPT_S - 1
    for name in (LOCK, "kernels-a.so"):
        os.utime(tmp_path / name, (old, old))
    tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {LOCK, "kernels-b.so"}
