"""An HTTP server as a supervised child; keeps its address over restarts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio
from starlette.types import ASGIApp

from r3mes.actors.doorway import Doorway
from r3mes.node.http.probe import ask_api
from r3mes.node.http.server import HttpServer


class HttpChild:
    """Serves one application at one address, by a fresh server in each incarnation.

    Args:
        app: what answers.
        listen: ``host:port`` or ``unix:PATH``.
        drain_seconds: how long answers in flight may go on when it is drained.
        doors: shut when it is drained; what they let in is waited for.
        on_drain: called when it is drained.
        key: of the configuration, where ``listen`` comes from.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        listen: str,
        drain_seconds: float,
        doors: Sequence[Doorway] = (),
        on_drain: Callable[[], None] = lambda: None,
        key: str = "api.listen",
    ) -> None:
        self._app, self._doors, self._on_drain = app, doors, on_drain
        self._drain_seconds, self._key = drain_seconds, key
        self.address = listen
        """Where it listens; of port 0 the port that was bound, once it has started."""
        self._server: HttpServer | None = None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        self._server = HttpServer(
            self._app, listen=self.address, drain_seconds=self._drain_seconds, key=self._key
        )
        async with trio.open_nursery() as nursery:
            self.address = await nursery.start(self._server.run)
            task_status.started()
        for door in self._doors:  # drained: what the doors let in needs the rest of the node
            await door.wait_empty()

    async def answers(self) -> None:
        """Return once the API has answered a request.

        Raises:
            NotReady: nobody listens there now.
        """
        await ask_api(self.address)

    def drain(self) -> None:
        """Refuse new work at every door, let answers in flight end."""
        self._on_drain()
        for door in self._doors:
            door.shut()
        if self._server is not None:
            self._server.drain()

    def close(self) -> None:
        """Nothing waits here."""
