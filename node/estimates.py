"""What a request would cost, without running a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from r3mes.actors.candidates import Candidate
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.requests.pricing import price_of
from r3mes.errors import ContextLengthExceeded
from r3mes.ids import ModelHash, PeerId
from r3mes.p2p.protocols.infer import ModelOffer


@dataclass(frozen=True, slots=True)
class CandidateCost:
    """What one node would take at most.

    Args:
        served_by: ``local`` or the id of a peer.
        price_prompt: in uremes per million tokens, like ``price_completion``.
        allowed: whether that is within `wallet.max_price_uremes`; dearer ones are not asked.
    """

    served_by: str
    context: int
    price_prompt: int
    price_completion: int
    max_cost_uremes: int
    allowed: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a request would cost.

    Args:
        model: its name.
        prompt_tokens: None when this node has not loaded the model, and so cannot count them.
        max_cost_uremes: the most that any of the candidates would take; for as many tokens as fit
            if ``max_tokens`` is not given, for any prompt that fits if the prompt is not counted.
        candidates: who can answer, in the order in which they would be asked.
    """

    model: str
    prompt_tokens: int | None
    max_cost_uremes: int
    candidates: list[CandidateCost]


class Routes(Protocol):
    """Who can answer."""

    async def candidates(self, model: str) -> Sequence[Candidate]: ...


class Estimates:
    """Estimates requests.

    Args:
        own: this node's peer id.
        routes: who can answer.
        inference: counts prompts, for models that this node has loaded.
        max_price: the most that one answer may cost now, in uremes.
    """

    def __init__(
        self,
        own: PeerId,
        routes: Routes,
        inference: InferenceClient,
        *,
        max_price: Callable[[], int],
    ) -> None:
        self._own, self._routes, self._inference = own, routes, inference
        self._max_price = max_price

    async def estimate(
        self, model: str, messages: Sequence[Mapping[str, object]], max_tokens: int | None
    ) -> Estimate:
        """What an answer to ``messages`` would cost.

        Raises:
            ModelNotFound: nobody known serves the model.
            BadRequest: the messages do not suit the model.
            ContextLengthExceeded: prompt and answer fit at none of the candidates.
        """
        found = await self._routes.candidates(model)
        prompt = await self._count(found[0].offer.hash, messages)
        costs = [
            self._cost(one, prompt, max_tokens)
            for one in found
            if (prompt or 1) + (max_tokens or 1) <= one.offer.context
        ]
        if not costs:
            largest = max(one.offer.context for one in found)
            raise ContextLengthExceeded(
                f"the prompt has {prompt or 'some'} tokens, {max_tokens or 'more'} are for the "
                f"answer, and the context is {largest} tokens",
                param="max_tokens" if max_tokens else "messages",
            )
        most = max(cost.max_cost_uremes for cost in costs)
        return Estimate(found[0].offer.name, prompt, most, costs)

    async def _count(
        self, model: ModelHash, messages: Sequence[Mapping[str, object]]
    ) -> int | None:
        for manifest in self._inference.manifests():
            if manifest.hash == model:
                return await self._inference.count_prompt(manifest.name, messages)
        return None

    def _cost(
        self, candidate: Candidate, prompt: int | None, max_tokens: int | None
    ) -> CandidateCost:
        offer = candidate.offer
        most = most_cost(offer, prompt, max_tokens)
        return CandidateCost(
            served_by="local" if candidate.peer == self._own else candidate.peer,
            context=offer.context,
            price_prompt=offer.price_prompt,
            price_completion=offer.price_completion,
            max_cost_uremes=most,
            allowed=most <= self._max_price(),
        )


def most_cost(offer: ModelOffer, prompt: int | None, max_tokens: int | None) -> int:
    """The most that an answer may cost at ``offer``, in uremes.

    The cost is linear between these prompts, so an unknown one costs no more than the dearest of
    them: the shortest, the longest, and the longest that leaves room for the whole answer.
    """
    cap = min(max_tokens or offer.context, offer.context - 1)
    prompts = (1, offer.context - cap, offer.context - 1) if prompt is None else (prompt,)
    return max(
        price_of(
            prompt_tokens=tokens,
            completion_tokens=min(cap, offer.context - tokens),
            price_prompt=offer.price_prompt,
            price_completion=offer.price_completion,
        )
        for tokens in prompts
    )
