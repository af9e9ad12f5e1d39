"""The router while things change: vectors that come late, a model that dies, other routes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import trio
import trio.testing
from numpy.typing import NDArray

from r3mes.actors.semantic.router import RETRY_S, Plan, Route, SemanticRouter
from r3mes.errors import EngineCrashed

COOK = Route("cook", "a", ("boil an egg", "bake bread", "fry fish", "roast a chicken"))
CODE = Route("code", "b", ("fix my python", "write a test", "a bug in C", "compile rust"))
PLAN = Plan((COOK, CODE), ("hello", "what time is it", "who are you"), most_wrong=0.3)
ABOUT = {"egg": 0, "bread": 0, "fish": 0, "chicken": 0, "python": 1, "test": 1, "bug": 1, "rust": 1}


class SmallModel:
    """Knows what eight words are about."""

    def __init__(self, *, up: bool = True) -> None:
        self.up, self.dead, self.asked = up, False, 0
        self._changed = trio.Event()

    def hash(self) -> bytes | None:
        return b"hash" if self.up else None

    async def wait_change(self) -> None:
        await self._changed.wait()

    def come_up(self) -> None:
        self.up, self.dead = True, False
        self._changed.set()
        self._changed = trio.Event()

    async def vectors(self, texts: Sequence[str], *, deadline_s: float) -> NDArray[np.float32]:
        self.asked += 1
        if self.dead:
            raise EngineCrashed("the worker ended by signal 9")
        found = np.zeros((len(texts), 3), np.float32)
        for at, text in enumerate(texts):
            found[at, next((ABOUT[word] for word in text.split() if word in ABOUT), 2)] = 1
        return found


async def started(router: SemanticRouter, nursery: trio.Nursery) -> SemanticRouter:
    await nursery.start(router.run)
    await router.prepared.wait()
    return router


async def test_prompts_go_to_their_route_or_to_none(nursery: trio.Nursery) -> None:
    router = await started(SemanticRouter(SmallModel(), PLAN), nursery)
    bread, rust = await router.decide("any bread ?"), await router.decide("learn rust")
    assert (bread.route, bread.abstained, bread.method, bread.why) == (
        "cook", False, "embedding", None,
    )  # fmt: skip
    assert rust.route == "code"
    assert (await router.decide("good day to you")).abstained
    assert bread.margin > 0


async def test_words_decide_where_no_model_is_configured(nursery: trio.Nursery) -> None:
    router = await started(SemanticRouter(None, PLAN), nursery)
    found = await router.decide("bake bread")
    assert (found.route, found.method, found.why) == ("cook", "keywords", None)


async def test_a_dead_model_is_said_and_words_decide(nursery: trio.Nursery) -> None:
    model = SmallModel()
    router = await started(SemanticRouter(model, PLAN), nursery)
    model.dead = True
    found = await router.decide("bake bread")
    assert (found.route, found.method) == ("cook", "keywords")
    assert found.why == "the model for embeddings: the worker ended by signal 9"
    model.dead = False
    assert (await router.decide("bake bread")).method == "embedding"


async def test_a_model_that_comes_later_is_used(nursery: trio.Nursery) -> None:
    model = SmallModel(up=False)
    router = await started(SemanticRouter(model, PLAN), nursery)
    before = await router.decide("bake bread")
    assert (before.method, before.why) == (
        "keywords",
        "the vectors of the examples are not there yet",
    )
    model.come_up()
    await trio.testing.wait_all_tasks_blocked()
    await router.prepared.wait()
    assert (await router.decide("bake bread")).method == "embedding"


async def test_vectors_are_made_when_the_same_model_is_back(nursery: trio.Nursery) -> None:
    model = SmallModel()
    model.dead = True
    router = await started(SemanticRouter(model, PLAN), nursery)
    assert (await router.decide("bake bread")).method == "keywords"
    model.come_up()
    await trio.testing.wait_all_tasks_blocked()
    await router.prepared.wait()
    assert (await router.decide("bake bread")).method == "embedding"
    asked = model.asked
    model.come_up()
    await trio.testing.wait_all_tasks_blocked()
    assert model.asked == asked


async def test_vectors_are_tried_again_after_a_while(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    model = SmallModel()
    model.dead = True
    router = await started(SemanticRouter(model, PLAN), nursery)
    model.dead = False
    with trio.fail_after(RETRY_S * 1000):  # of virtual time, which runs ahead of threads
        while router.vectors is None:  # noqa: ASYNC110
            await trio.sleep(RETRY_S / 4)
    assert (await router.decide("bake bread")).method == "embedding"


async def test_other_routes_take_their_place(nursery: trio.Nursery) -> None:
    router = await started(SemanticRouter(SmallModel(), PLAN), nursery)
    router.follow(Plan((Route("kitchen", "c", COOK.examples), CODE), PLAN.outside))
    assert (await router.decide("bake bread")).method == "none"
    await router.prepared.wait()
    assert (await router.decide("bake bread")).route == "kitchen"
    router.follow(Plan())
    await router.prepared.wait()
    assert (await router.decide("bake bread")).why == "no routes are configured"


@pytest.mark.parametrize("prompt", ["", "  \n", "\x00", "?" * 100_000, "\ud800"])
async def test_prompts_of_no_sense_are_decided_too(nursery: trio.Nursery, prompt: str) -> None:
    router = await started(SemanticRouter(None, PLAN), nursery)
    assert (await router.decide(prompt)).abstained


async def test_thousands_of_examples(nursery: trio.Nursery) -> None:
    many = tuple(f"bake {number} eggs at {number} degrees" for number in range(1500))
    plan = Plan((Route("cook", "a", many), CODE), PLAN.outside)
    router = await started(SemanticRouter(SmallModel(), plan), nursery)
    assert router.vectors is not None
    assert router.vectors.calibration.prompts == 1507
