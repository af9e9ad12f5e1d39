"""The routes as keys see them that are for some models alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from r3mes.config.schema import Config, Routing
from r3mes.node.http.keyed_gateway import KeyedGateway
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.methods.route import RouteMethods
from tests.node.rpc.conftest import Caller, Key
from tests.node.test_auto import auto


@pytest.mark.parametrize(
    ("models", "routes", "default", "tested"),
    [
        (None, ["cook", "code"], "first", True),
        (("chef",), ["cook"], None, True),
        (("ab",), ["cook"], "first", True),  # by its hash
        (("first",), [], "first", False),
    ],
)
async def test_a_key_sees_the_routes_to_its_models(
    nursery: trio.Nursery,
    models: tuple[str, ...] | None,
    routes: list[str],
    default: str | None,
    tested: bool,
) -> None:
    gateway = await auto(nursery, "first", "chef")
    reload = SimpleNamespace(config=Config(routing=Routing(default="first")))
    methods = RouteMethods(gateway, gateway._router, cast(Any, reload))
    ask = Caller(Dispatcher(methods), Key(models=models))
    listed = await ask("route_list")
    assert ([one["name"] for one in listed["routes"]], listed["default"]) == (routes, default)
    answer = await ask("route_test", prompt="bake bread")
    assert answer.get("model") == ("chef" if tested else None), answer
    if not tested:
        assert answer["data"]["code"] == "permission_denied"
        assert "chef" not in str(answer)


async def test_every_key_is_shown_auto(nursery: trio.Nursery) -> None:
    keyed = KeyedGateway(await auto(nursery, "first", "chef"), Key(models=("chef",)))
    assert [one.id for one in await keyed.models()] == ["chef", "auto"]
    keyed.check("auto")
