"""Which calls the audit log notes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
import trio.testing

from r3mes.node.http.auth import AdminKey
from r3mes.node.rpc.context import Context
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.method import method


class Examples:
    @method("net_look", scope="r")
    async def look(self) -> None:
        pass

    @method("net_ban", scope="a")
    async def ban(self, reason: str) -> None:
        pass

    @method("wallet_send", scope="w")
    async def send(self) -> None:
        raise RuntimeError("the cable is loose")


async def test_calls_that_may_change_something_are_noted_without_their_parameters(
    audited: Callable[[], list[dict[str, Any]]], autojump_clock: trio.testing.MockClock
) -> None:
    rpc = Dispatcher(Examples())

    async def call(name: str, params: str = "{}") -> None:
        body = f'{{"jsonrpc": "2.0", "id": 1, "method": "{name}", "params": {params}}}'
        await rpc.answer(body.encode(), Context(AdminKey()))

    for _ in range(3):
        await call("net_look")
        await call("net_ban", '{"reason": "canary"}')
    await call("wallet_send")
    await trio.sleep(60)
    await call("net_ban", '{"reason": "canary"}')
    banned = {"event": "rpc_called", "method": "net_ban", "scope": "a", "by": "admin socket"}
    sent = {**banned, "method": "wallet_send", "scope": "w"}
    assert audited() == [banned, sent, banned]
