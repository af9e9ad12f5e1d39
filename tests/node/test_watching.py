"""What is told as an event: changes of the status, peers that come and go, requests, log lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from r3mes.actors.observing import Ended
from r3mes.errors import AskTimeout
from r3mes.node.events import Events
from r3mes.node.logs import Ring
from r3mes.node.watching import Watching


@dataclass
class Offer:
    name: str


@dataclass
class Hello:
    models: list[Offer]


@dataclass
class Peer:
    peer: str
    hello: Hello


@dataclass
class Node:
    """What is looked at."""

    status: dict[str, object] = field(default_factory=lambda: {"ready": False, "uptime_s": 1})
    connected: list[Any] = field(default_factory=list)
    restarting: bool = False

    async def say(self) -> Mapping[str, object]:
        if self.restarting:
            raise AskTimeout
        return dict(self.status)

    async def peers(self) -> list[Any]:
        return list(self.connected)


async def test_changes_are_told_once(nursery: trio.Nursery, autojump_clock: object) -> None:
    node, ring, events = Node(), Ring(), Events(now_ms=lambda: 0)
    watching = Watching(events, status=node.say, peers=node.peers, logs=ring)
    await nursery.start(watching.run)

    async def told(after: int) -> list[tuple[str, Any]]:
        await trio.sleep(5)
        found = []
        with trio.move_on_after(0):
            found = await events.wait_after(after, ["status", "peers", "logs", "requests"])
        return [(one.topic, one.data) for one in found]

    assert await told(0) == [("status", {"ready": False})]
    node.status["uptime_s"] = 2
    assert await told(events.last) == []
    before = events.last
    node.status |= {"ready": True, "models": [{"name": "tiny", "state": "ready", "idle_s": 3}]}
    node.connected = [Peer("12D3", Hello([Offer("tiny")]))]
    assert await told(before) == [
        ("status", {"ready": True, "models": [{"name": "tiny", "state": "ready"}]}),
        ("peers", {"peer_id": "12D3", "what": "joined", "models": ["tiny"]}),
    ]
    before, node.restarting, node.connected = events.last, True, []
    assert await told(before) == []
    node.restarting = False
    assert await told(before) == [("peers", {"peer_id": "12D3", "what": "left", "models": []})]

    before = events.last
    line = ring.add(1, "info", "r3mes.test", "hello")
    asked = Ended("api", "tiny", "ok", "", "stop", 1.0, 0.5, 3, 4)
    watching.observe(asked)
    watching.observe(Ended("local", "tiny", "ok", "", "stop", 1.0, 0.5, 3, 4))
    assert await told(before) == [("requests", asked), ("logs", line)]
    nursery.cancel_scope.cancel()
