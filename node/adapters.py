"""The LoRA adapters of this node's models, as the operator sees and handles them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.settings import AdapterSettings
from r3mes.actors.inference.shelf import Shelved
from r3mes.config.schema import ADAPTER, MODELS_CAP
from r3mes.errors import BadRequest
from r3mes.ids import ModelHash


@dataclass(frozen=True, slots=True)
class AdapterListed:
    """An adapter of a model of this node.

    Args:
        id: by which it is asked for, such as ``base:adapter``.
        state: ``loading``, ``ready`` (can be asked for), ``failed``, ``unloading`` (answers in
            flight end) or ``unloaded``.
        why: it is not ready.
        source: a directory, or a hub id.
        revision: of a hub id.
        directory: where its files are, once they were found.
        hash: of model and adapter together, once it was loaded.
        in_memory: whether it is there now; if not, it comes from disk when it is asked for.
        memory_bytes: that it takes there, at most.
    """

    id: str
    state: str
    why: str | None
    source: str
    revision: str
    directory: str | None
    hash: str | None
    in_memory: bool
    memory_bytes: int


class Adapters:
    """Lists, loads and unloads the adapters of this node's models."""

    def __init__(self, inference: InferenceClient) -> None:
        self._inference = inference

    def listed(self) -> list[AdapterListed]:
        """Every adapter, of the configuration or loaded since."""
        boards = self._inference.boards().values()
        return [_listed(adapter) for board in boards for adapter in board.adapters.values()]

    async def load(
        self, name: str, source: str | None, *, revision: str, expected: str | None
    ) -> AdapterListed:
        """Load an adapter, in place of one of its name if there is one.

        Args:
            name: of model and adapter, such as ``base:adapter``.
            source: a directory, or a hub id; None for where it came from before.
            revision: of a hub id.
            expected: the hash, in hex, that its files must have; None for any.

        Raises:
            ModelNotFound: this node does not have the model, or not the adapter and no source.
            BadRequest: it cannot be called so, or this node has as many as it can offer.
            NotReady, EngineError: the model is not loaded, or the adapter cannot be.
        """
        model, _, own = name.partition(":")
        if not re.fullmatch(ADAPTER, own):
            raise BadRequest("write id as model:adapter, such as qwen3:support", param="id")
        if source is None:
            settings = self._inference.adapter(name).settings
        else:
            pinned = ModelHash(bytes.fromhex(expected)) if expected else None
            settings = AdapterSettings(own, source, revision, pinned)
        self._check_room(name)
        return _listed(await self._inference.load_adapter(model, settings))

    async def unload(self, name: str, *, patience_s: float) -> AdapterListed:
        """Take an adapter off the offers and out of memory, when the answers in flight have ended.

        Raises:
            ModelNotFound: this node does not have it.
        """
        await self._inference.unload_adapter(name, patience_s=patience_s)
        return _listed(self._inference.adapter(name))

    def _check_room(self, name: str) -> None:
        names = {one.id for one in self.listed()} | {*self._inference.boards()}
        if name not in names and len(names) >= MODELS_CAP:
            raise BadRequest(f"a node offers {MODELS_CAP} models and adapters at most", param="id")


def _listed(adapter: Shelved) -> AdapterListed:
    return AdapterListed(
        id=adapter.name,
        state=adapter.state,
        why=adapter.error.detail if adapter.error else None,
        source=adapter.settings.source,
        revision=adapter.settings.revision,
        directory=str(adapter.directory) if adapter.directory else None,
        hash=adapter.hash.hex() if adapter.hash else None,
        in_memory=bool(adapter.number),
        memory_bytes=adapter.memory_bytes,
    )
