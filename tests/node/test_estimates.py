"""What a request may cost at most: never less than what any answer to it is charged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3mes.actors.candidates import Candidate
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.requests.pricing import price_of
from r3mes.errors import ContextLengthExceeded
from r3mes.ids import Address, ModelHash, PeerId
from r3mes.node.estimates import Estimates, most_cost
from r3mes.p2p.protocols.infer import ModelOffer

OWN, BOB = PeerId("own"), PeerId("bob")
PRICES = st.integers(0, 10**9)


def offer(context: int = 64, prompt: int = 1_000_000, completion: int = 2_000_000) -> ModelOffer:
    return ModelOffer("tiny", ModelHash(b"t" * 32), context, prompt, completion)


@given(
    context=st.integers(2, 24),
    prices=st.tuples(PRICES, PRICES),
    prompt=st.none() | st.integers(1, 23),
    max_tokens=st.none() | st.integers(1, 30),
)
def test_it_is_the_dearest_of_all_answers(
    context: int, prices: tuple[int, int], prompt: int | None, max_tokens: int | None
) -> None:
    prompts = range(1, context) if prompt is None else [min(prompt, context - 1)]
    dearest = max(
        price_of(
            prompt_tokens=tokens,
            completion_tokens=written,
            price_prompt=prices[0],
            price_completion=prices[1],
        )
        for tokens in prompts
        for written in range(min(max_tokens or context, context - tokens) + 1)
    )
    known = None if prompt is None else prompts[0]
    assert most_cost(offer(context, *prices), known, max_tokens) == dearest


class Scripted:
    def __init__(self, *found: Candidate) -> None:
        self._found = found

    async def candidates(self, model: str) -> Sequence[Candidate]:
        return self._found


async def test_candidates_that_are_too_small_are_left_out_and_dear_ones_marked() -> None:
    routes = Scripted(
        Candidate(OWN, Address("a"), offer(16)),
        Candidate(BOB, Address("b"), offer(64)),
        Candidate(BOB, Address("b"), offer(64, 9_000_000, 9_000_000)),
    )
    limit = 200
    estimates = Estimates(OWN, routes, InferenceClient([]), max_price=lambda: limit)
    messages: list[Mapping[str, object]] = [{"role": "user", "content": "Hi"}]
    found = await estimates.estimate("tiny", messages, 20)
    assert found.prompt_tokens is None
    assert [(one.max_cost_uremes, one.allowed) for one in found.candidates] == [
        (44 + 40, True),
        (64 * 9, False),
    ]
    assert found.max_cost_uremes == 64 * 9
    limit = 64 * 9  # an operator may change it at any time
    found = await estimates.estimate("tiny", messages, 20)
    assert all(one.allowed for one in found.candidates)
    with pytest.raises(ContextLengthExceeded, match="64 tokens"):
        await estimates.estimate("tiny", messages, 64)
