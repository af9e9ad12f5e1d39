"""The node as a whole: who it is, how it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from r3mes.node.rpc.method import method
from r3mes.node.state import Health, NodeInfo


class NodeState(Protocol):
    """What the node knows about itself."""

    def info(self) -> NodeInfo: ...
    async def health(self) -> Health: ...
    async def status(self) -> Mapping[str, object]: ...


class NodeMethods:
    """The namespace ``node``."""

    def __init__(self, state: NodeState) -> None:
        self._state = state

    @method("node_info", scope="r")
    async def info(self) -> NodeInfo:
        """Who this node is."""
        return self._state.info()

    @method("node_status", scope="r")
    async def status(self) -> Mapping[str, object]:
        """What `r3mes status --json` prints."""
        return await self._state.status()

    @method("node_health", scope="r")
    async def health(self) -> Health:
        """Whether requests can be answered now, and if not why."""
        return await self._state.health()
