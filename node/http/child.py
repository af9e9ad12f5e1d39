"""An HTTP server as a supervised child; keeps its address over restarts."""

from __future__ import annotations

import trio
from starlette.types import ASGIApp

from r3mes.node.doors import Doors
from r3mes.node.http.probe import ask_api
from r3mes.node.http.server import HttpServer


class HttpChild:
    """Serves one application at one address, by a fresh server in each incarnation.

    Args:
        app: what answers.
        listen: ``host:port`` or ``unix:PATH``.
        drain_seconds: how long answers in flight may go on when it is drained.
        doors: shut for good when it is drained; what they let in is waited for.
        key: of the configuration, where ``listen`` comes from.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        listen: str,
        drain_seconds: float,
        doors: Doors | None = None,
        key: str = "api.listen",
    ) -> None:
        self._app, self._doors = app, doors
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
        if self._doors is not None:  # drained: what they let in needs the rest of the node
            await self._doors.wait_empty()

    async def answers(self) -> None:
        """Return once the API has answered a request.

        Raises:
            NotReady: nobody listens there now.
        """
        await ask_api(self.address)

    def drain(self) -> None:
        """Refuse new work at every door, let answers in flight end."""
        if self._doors is not None:
            self._doors.stop()
        if self._server is not None:
            self._server.drain()

    def close(self) -> None:
        """Nothing waits here."""
