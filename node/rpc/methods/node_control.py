"""The node under an operator's hand: drain and resume, look inside, log more, stop."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from r3mes.errors import ConfigError, NotFound, NotReady
from r3mes.node.doors import Doors
from r3mes.node.ending import Stop
from r3mes.node.logs.levels import Level, LogLevels
from r3mes.node.reload import Reloaded
from r3mes.node.rpc.method import method
from r3mes.node.tasks import Tasks

logger = logging.getLogger(__name__)

Seconds = Annotated[float, Field(ge=0, le=3600)]


@dataclass(frozen=True, slots=True)
class Drained:
    """What is still being answered."""

    in_flight: int


@dataclass(frozen=True, slots=True)
class LevelSet:
    """The level that was in force before."""

    previous: Level


class NodeControl:
    """The namespace ``node``, what needs the scope a.

    Args:
        doors: through which work comes in.
        drain_seconds: how long a drain takes if the caller does not say.
        tasks: what runs now.
        reload: reads the configuration again.
        stop: ends the process.
    """

    def __init__(
        self,
        *,
        doors: Doors,
        drain_seconds: float,
        tasks: Callable[[], Tasks],
        log_levels: LogLevels,
        reload: Callable[[], Awaitable[Reloaded]],
        stop: Stop,
    ) -> None:
        self._doors, self._drain_seconds, self._tasks = doors, drain_seconds, tasks
        self._log_levels, self._reload, self._stop = log_levels, reload, stop

    @method("node_drain", scope="a")
    async def drain(
        self,
        deadline_s: Annotated[
            Seconds | None,
            Field(description="How long to wait for answers in flight; `limits.drain_seconds`."),
        ] = None,
    ) -> Drained:
        """Take no new requests, of applications or peers, and wait for the answers in flight.

        The node stays up, says that it is not ready, and takes requests again after node_resume.
        Answers in flight go on also when the deadline is over.
        """
        logger.warning("draining: no new requests are taken until node_resume")
        seconds = self._drain_seconds if deadline_s is None else deadline_s
        return Drained(await self._doors.drain(seconds))

    @method("node_resume", scope="a", errors=(NotReady,))
    async def resume(self) -> None:
        """Take requests again after node_drain."""
        self._doors.resume()
        logger.warning("new requests are taken again")

    @method("node_tasks", scope="a")
    async def tasks(self) -> Tasks:
        """Everything that runs: the supervision tree with restarts, mailboxes and loop lag."""
        return self._tasks()

    @method("node_setLogLevel", scope="a", errors=(NotFound,))
    async def set_log_level(
        self,
        level: Level,
        logger: Annotated[
            str, Field(description="One of the node's own.", max_length=200)
        ] = "r3mes",
        ttl_s: Annotated[
            float, Field(gt=0, le=86400, description="After which it is set back.")
        ] = 900.0,
    ) -> LevelSet:
        """Log more, or less, for a while."""
        return LevelSet(self._log_levels.set(logger, level, ttl_s=ttl_s))

    @method("node_reload", scope="a", errors=(ConfigError,))
    async def reload(self) -> Reloaded:
        """Read the configuration again, as SIGHUP does, and take over what a running node can.

        A configuration that is wrong changes nothing.
        """
        return await self._reload()

    @method("node_shutdown", scope="a")
    async def shutdown(
        self,
        drain: Annotated[
            bool, Field(description="Whether answers in flight are finished first.")
        ] = True,
    ) -> None:
        """End the process with exit status 0; a service manager does not start it again."""
        logger.warning("stopping, as node_shutdown said")
        self._stop.ask(drain=drain)
