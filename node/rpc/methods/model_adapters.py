"""LoRA adapters: which there are, another one loaded or put away while the node runs."""

from __future__ import annotations

from typing import Annotated, Protocol

from pydantic import Field

from r3mes.errors import BadRequest, EngineError, ModelNotFound, NotReady
from r3mes.node.adapters import AdapterListed
from r3mes.node.catalogue import MOST_PATIENCE_S
from r3mes.node.rpc.method import method

Id = Annotated[
    str, Field(max_length=256, description="Model and adapter, such as `qwen3:support`.")
]
Source = Annotated[
    str | None,
    Field(
        max_length=4096,
        description="A directory on the node's machine, or a hub id; where it came from before "
        "if left out.",
    ),
]


class Adapters(Protocol):
    """The adapters of this node's models."""

    def listed(self) -> list[AdapterListed]: ...

    async def load(
        self, name: str, source: str | None, *, revision: str, expected: str | None
    ) -> AdapterListed: ...

    async def unload(self, name: str, *, patience_s: float) -> AdapterListed: ...


class ModelAdapters:
    """The part of the namespace ``model`` that is about adapters.

    Args:
        adapters: lists and handles them.
        drain_seconds: how long answers in flight may go on when nobody says so.
    """

    def __init__(self, adapters: Adapters, *, drain_seconds: float) -> None:
        self._adapters, self._drain_seconds = adapters, drain_seconds

    @method("model_adapters", scope="r")
    async def listed(self) -> list[AdapterListed]:
        """The LoRA adapters of this node's models, and which of them are in memory."""
        return self._adapters.listed()

    @method("model_loadAdapter", scope="a", errors=(ModelNotFound, NotReady, EngineError))
    async def load(
        self,
        id: Id,  # noqa: A002
        source: Source = None,
        revision: Annotated[
            str, Field(max_length=128, description="Commit, branch or tag of a hub id.")
        ] = "main",
        hash: Annotated[  # noqa: A002
            str | None,
            Field(pattern="^[0-9a-f]{64}$", description="Its files must have this hash."),
        ] = None,
    ) -> AdapterListed:
        """Load an adapter and offer it; returns when it can be asked for.

        One of the same name stays until the new one has proved good, and answers under way end
        with it. To have it again after a restart, name it in the configuration as well.
        """
        return await self._adapters.load(id, source, revision=revision, expected=hash)

    @method("model_unloadAdapter", scope="a", errors=(ModelNotFound,))
    async def unload(
        self,
        id: Id,  # noqa: A002
        deadline_s: float | None = None,
    ) -> AdapterListed:
        """Stop offering an adapter and free its memory.

        Answers in flight may go on for `deadline_s` seconds (`limits.drain_seconds` if left out),
        those that wait are refused. Returns when nothing uses it any more.
        """
        patience = self._drain_seconds if deadline_s is None else deadline_s
        if not 0 <= patience <= MOST_PATIENCE_S:
            raise BadRequest(f"deadline_s is not 0 to {MOST_PATIENCE_S:g}", param="deadline_s")
        return await self._adapters.unload(id, patience_s=patience)
