"""A support bundle over JSON-RPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import trio
from pydantic import Field

from r3mes.config.load import Loaded
from r3mes.errors import R3mesError, StoreError
from r3mes.node.bundle import log_text, versions, write_bundle
from r3mes.node.logs.ring import Ring
from r3mes.node.rpc.method import method
from r3mes.node.rpc.methods.config import entries
from r3mes.node.tasks import Tasks

Part = Literal["status", "config", "logs", "versions", "tasks"]


@dataclass(frozen=True, slots=True)
class BundleMade:
    """A bundle on the node's disk; ``files`` are the names of what is in it."""

    path: str
    files: list[str]


class DiagBundle:
    """The namespace ``diag``, what is written into a file.

    Args:
        status: the whole status.
        tasks: what runs.
        ring: the last lines of the log.
        loaded: the configuration in force.
    """

    def __init__(
        self,
        *,
        status: Callable[[], Awaitable[Mapping[str, object]]],
        tasks: Callable[[], Tasks],
        ring: Ring,
        loaded: Callable[[], Loaded],
    ) -> None:
        self._status, self._tasks, self._ring, self._loaded = status, tasks, ring, loaded
        self._one_at_a_time = trio.Lock()

    @method("diag_bundle", scope="a", errors=(StoreError,))
    async def bundle(
        self,
        include: Annotated[
            list[Part] | None,
            Field(min_length=1, max_length=8, description="What to put in; all if left out."),
        ] = None,
    ) -> BundleMade:
        """Put what helps to find a fault into one file in the data directory's `bundles`.

        Secrets are masked as in the log. Peers, addresses and names of models are not: look into
        it before you send it. The last 5 bundles are kept.
        """
        wanted = include or list(get_args(Part))
        async with self._one_at_a_time:
            parts = await self._parts(wanted)
            datadir = self._loaded().config.node.datadir
            path = await trio.to_thread.run_sync(write_bundle, datadir, parts)
        return BundleMade(str(path), list(parts))

    async def _parts(self, wanted: list[Part]) -> dict[str, object]:
        parts: dict[str, object] = {}
        if "status" in wanted:
            parts["status.json"] = await self._status_or_why_not()
        if "config" in wanted:
            parts["config.json"] = entries(self._loaded())
        if "logs" in wanted:
            parts["log.txt"] = log_text(self._ring.after())
        if "versions" in wanted:
            parts["versions.json"] = await trio.to_thread.run_sync(versions)
        if "tasks" in wanted:
            parts["tasks.json"] = self._tasks()
        return parts

    async def _status_or_why_not(self) -> object:
        """A node in trouble is what bundles are for."""
        try:
            return await self._status()
        except R3mesError as error:
            return {"error": str(error)}
