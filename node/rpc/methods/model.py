"""Models: which there are, here and at peers, and whether they are loaded."""

from __future__ import annotations

from typing import Literal, Protocol

from r3mes.errors import EngineError, ModelNotFound, ModelUnloaded, NotReady
from r3mes.node.catalogue import (
    ModelListed,
    ModelProcess,
    ModelShown,
    ModelState,
    ModelVerified,
)
from r3mes.node.rpc.method import method


class Catalogue(Protocol):
    """The models of this node and of its peers."""

    def local(self) -> list[ModelListed]: ...
    async def network(self) -> list[ModelListed]: ...
    async def show(self, model: str) -> ModelShown: ...
    def processes(self) -> list[ModelProcess]: ...
    async def load(self, model: str) -> ModelState: ...
    async def unload(self, model: str, *, patience_s: float) -> ModelState: ...
    async def verify(self, model: str) -> ModelVerified: ...


class ModelMethods:
    """The namespace ``model``.

    Args:
        catalogue: lists and handles models.
        drain_seconds: how long answers in flight may go on when nobody says so.
    """

    def __init__(self, catalogue: Catalogue, *, drain_seconds: float) -> None:
        self._catalogue, self._drain_seconds = catalogue, drain_seconds

    @method("model_list", scope="r")
    async def listed(self, scope: Literal["local", "network"] = "local") -> list[ModelListed]:
        """The models of this node, or those that connected peers offer."""
        return self._catalogue.local() if scope == "local" else await self._catalogue.network()

    @method("model_show", scope="r", errors=(ModelNotFound,))
    async def show(self, id: str) -> ModelShown:  # noqa: A002
        """One model by its name or hash: what this node knows of it, and who offers it."""
        return await self._catalogue.show(id)

    @method("model_ps", scope="r")
    async def ps(self) -> list[ModelProcess]:
        """The models of this node at work: device, memory, how busy, how long idle."""
        return self._catalogue.processes()

    @method("model_load", scope="a", errors=(ModelNotFound, NotReady))
    async def load(self, id: str) -> ModelState:  # noqa: A002
        """Begin to load a model that was unloaded, or try again one that failed.

        Returns at once; `model_ps` tells when it is ready.
        """
        return await self._catalogue.load(id)

    @method("model_unload", scope="a", errors=(ModelNotFound,))
    async def unload(self, id: str, deadline_s: float | None = None) -> ModelState:  # noqa: A002
        """Stop offering a model and free its memory.

        Answers in flight may go on for `deadline_s` seconds (`limits.drain_seconds` if left out),
        those that wait are refused. Returns when the worker is gone.
        """
        patience = self._drain_seconds if deadline_s is None else deadline_s
        return await self._catalogue.unload(id, patience_s=patience)

    @method("model_verify", scope="a", errors=(ModelNotFound, ModelUnloaded, EngineError))
    async def verify(self, id: str) -> ModelVerified:  # noqa: A002
        """Read the files of a loaded model again and compare them with what was loaded."""
        return await self._catalogue.verify(id)
