"""Looks at the node now and then, and tells what has changed; passes on log lines and requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from r3mes.actors.observing import Ended, Event
from r3mes.actors.router import Peer
from r3mes.errors import R3mesError
from r3mes.node.events import Events
from r3mes.node.logs import Ring

EVERY_S = 1.0

STEADY = ("ready", "reasons", "warnings", "reachability", "load")
"""What of the status is worth an event when it changes; the rest changes all the time."""


class Watching:
    """A supervised child that turns what it sees into events.

    Args:
        status: the whole status of the node.
        peers: who is connected.
        logs: the last lines of the log.
    """

    def __init__(
        self,
        events: Events,
        *,
        status: Callable[[], Awaitable[Mapping[str, object]]],
        peers: Callable[[], Awaitable[Sequence[Peer]]],
        logs: Ring,
    ) -> None:
        self._events, self._status, self._peers, self._logs = events, status, peers, logs

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on_logs)
            nursery.start_soon(self._compare)
            task_status.started()

    def observe(self, event: Event) -> None:
        """What happened to a request; what the node asks of itself is told once."""
        if isinstance(event, Ended) and event.source != "local":
            self._events.publish("requests", event)

    async def _pass_on_logs(self) -> None:
        number = 0
        while True:
            for line in await self._logs.wait_after(number):
                self._events.publish("logs", line)
                number = line.number

    async def _compare(self) -> None:
        seen: object = None
        known: dict[str, list[str]] = {}
        while True:
            try:
                if (now := _steady(await self._status())) != seen:
                    seen = now
                    self._events.publish("status", now)
                known = self._tell_peers(known, await self._peers())
            except R3mesError:
                pass  # a part of the node restarts: look again later
            await trio.sleep(EVERY_S)

    def _tell_peers(
        self, known: Mapping[str, list[str]], peers: Sequence[Peer]
    ) -> dict[str, list[str]]:
        now = {str(peer.peer): [offer.name for offer in peer.hello.models] for peer in peers}
        for peer in known.keys() - now.keys():
            self._events.publish("peers", {"peer_id": peer, "what": "left", "models": []})
        for peer, models in now.items():
            if known.get(peer) != models:
                what = "changed" if peer in known else "joined"
                self._events.publish("peers", {"peer_id": peer, "what": what, "models": models})
        return now


def _steady(status: Mapping[str, object]) -> dict[str, object]:
    kept = {key: status[key] for key in STEADY if key in status}
    models = status.get("models")
    if isinstance(models, list):
        kept["models"] = [{"name": model["name"], "state": model["state"]} for model in models]
    return kept
