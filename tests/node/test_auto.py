"""``model = "auto"``: the route's model, the default where there is none, told with the answer."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio

from r3mes.actors.gateway import ChatRequest, ModelEntry
from r3mes.actors.semantic.router import SemanticRouter
from r3mes.config.schema import Config, Route, Routing
from r3mes.errors import ModelNotFound
from r3mes.node.auto import AutoGateway, plan_of, prompt_of

ROUTES = (
    Route(name="cook", model="chef", examples=("boil an egg", "bake bread", "fry fish")),
    Route(name="code", model="gone", examples=("fix my python", "write a test", "a bug")),
)


class SmallGateway:
    def __init__(self, *names: str) -> None:
        self.names = names

    async def models(self) -> list[ModelEntry]:
        return [ModelEntry(name, "ab", 512, "local", 0, 0) for name in self.names]


async def auto(
    nursery: trio.Nursery, *names: str, routing: Routing | None = None, routes: Any = ROUTES
) -> AutoGateway:
    config = Config(routes=routes, routing=routing or Routing(most_wrong=0.5))
    router = SemanticRouter(None, plan_of(config))
    await nursery.start(router.run)
    await router.prepared.wait()
    return AutoGateway(cast(Any, SmallGateway(*names)), router, lambda: config)


def asked(text: str) -> ChatRequest:
    return ChatRequest("auto", [{"role": "user", "content": text}])


async def test_the_route_decides_and_the_request_carries_model_and_reason(
    nursery: trio.Nursery,
) -> None:
    gateway = await auto(nursery, "first", "chef")
    chosen = await gateway.choose(asked("bake bread"))
    assert chosen.model == "chef"
    assert chosen.auto is not None
    assert chosen.auto["route"] == "cook"
    assert set(chosen.auto) == {"route", "model", "score", "margin", "abstained", "method", "why"}


async def test_what_is_like_none_goes_to_the_default(nursery: trio.Nursery) -> None:
    gateway = await auto(nursery, "first", "chef")
    assert (await gateway.choose(asked("qwerty"))).model == "first"
    named = await auto(nursery, "first", routing=Routing(default="chef"))
    assert (await named.choose(asked("qwerty"))).model == "chef"


async def test_a_route_to_a_model_that_nobody_serves_falls_back_and_says_so(
    nursery: trio.Nursery,
) -> None:
    gateway = await auto(nursery, "first", "chef")
    found = await gateway.decide("write a test")
    assert (found.model, found.abstained, found.route) == ("first", True, "code")
    assert found.why == "nobody serves the model of the route code"


async def test_no_routes_and_no_models(nursery: trio.Nursery) -> None:
    bare = await auto(nursery, "first", routes=())
    assert (await bare.decide("bake bread")).model == "first"
    assert [one.id for one in await bare.models()] == ["first"]
    with pytest.raises(ModelNotFound):
        await (await auto(nursery)).decide("bake bread")


async def test_auto_is_listed_behind_the_models(nursery: trio.Nursery) -> None:
    listed = await (await auto(nursery, "first", "chef")).models()
    assert [one.id for one in listed] == ["first", "chef", "auto"]


def test_the_last_message_of_the_user_counts() -> None:
    messages = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": "second"},
        {"role": "assistant", "content": "no"},
    ]
    assert prompt_of(messages) == "second"
    assert prompt_of([{"role": "system", "content": "x"}, {"role": "user", "content": None}]) == ""
