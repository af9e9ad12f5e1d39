"""The models of this node, and those that peers offer, as the operator sees and handles them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from r3mes.actors.candidates import Candidate
from r3mes.actors.inference.actor import Board
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.files import weight_bytes
from r3mes.actors.inference.process import memory_bytes_of
from r3mes.config.load import served_name
from r3mes.config.schema import Model
from r3mes.errors import BadRequest, ModelNotFound
from r3mes.ids import ModelHash, PeerId

MOST_PATIENCE_S = 3600.0
"""How long an unloading model may be waited for at most."""


@dataclass(frozen=True, slots=True)
class ModelListed:
    """A model at one node.

    Args:
        id: its name.
        hash: of its files; None while it has not been loaded.
        context: most tokens of prompt and answer; None while it has not been loaded.
        price_prompt: in uremes per million tokens, like ``price_completion``.
        served_by: ``local`` or the id of a peer.
        state: ``ready`` when it can be asked; see `LocalModel`.
    """

    id: str
    hash: str | None
    context: int | None
    price_prompt: int
    price_completion: int
    served_by: str
    state: str


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model of this node's configuration.

    Args:
        source: ``builtin``, a directory, or a hub id.
        revision: of a hub id.
        state: ``loading``, ``ready``, ``restarting`` (requests wait), ``failed``, ``unloading``
            (answers in flight end), ``unloaded`` or ``resting`` (a request wakes it).
        why: it is not ready.
        engine: what runs it, ``none`` if nothing can; None until its files are found.
        engine_reason: why this engine.
        directory: where its files are; like all that follows None while it is not loaded.
        weights_bytes: size of the weights on disk.
        native: what of it is code made for this machine, and what is in the way of more.
        chat: whether it came with a chat template.
        restarts: workers lost so far.
    """

    source: str
    revision: str | None
    state: str
    why: str | None
    engine: str | None
    engine_reason: str | None
    restarts: int
    directory: str | None
    weights_bytes: int | None
    architecture: str | None
    parameters: int | None
    dtype: str | None
    device: str | None
    numeric_class: str | None
    native: str | None
    chat: bool | None


@dataclass(frozen=True, slots=True)
class ModelShown:
    """A model: what this node knows of its own, and who offers it."""

    id: str
    local: LocalModel | None
    offers: list[ModelListed]


@dataclass(frozen=True, slots=True)
class ModelProcess:
    """A model of this node at work.

    Args:
        state: see `LocalModel`.
        engine: see `LocalModel`.
        memory_bytes: what its worker occupies, without mapped files and GPU memory.
        gpu_bytes: what it has taken on its GPU.
        idle_s: since the last answer ended; None while one is being written or it is not loaded.
        running: answers being written, of ``slots`` at most; ``waiting`` more are queued.
    """

    id: str
    state: str
    engine: str | None
    device: str | None
    dtype: str | None
    context: int | None
    memory_bytes: int
    gpu_bytes: int
    idle_s: float | None
    running: int
    waiting: int
    slots: int


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a model has come to; ``why`` it is not ready, if it is not."""

    id: str
    state: str
    why: str | None


@dataclass(frozen=True, slots=True)
class ModelVerified:
    """Whether the files of a model are those that were loaded.

    Args:
        expected: the hash of what was loaded.
        found: the hash of what is on the disk now.
        files: SHA-256 of each file that counts, in hex.
        differing: the files that are not as loaded: ``changed``, ``missing`` or ``added``.
    """

    id: str
    ok: bool
    expected: str
    found: str
    directory: str
    files: dict[str, str]
    differing: dict[str, str]


class Offers(Protocol):
    """Who offers what, here and at connected peers."""

    async def offers(self) -> Sequence[Candidate]: ...


class Catalogue:
    """Lists, loads, unloads and verifies models.

    Args:
        models: as configured.
        own: this node's peer id.
        inference: the models of this node.
        offers: what can be asked for, here and at peers.
        prices_of: prices of prompt and answer by name.
    """

    def __init__(
        self,
        models: Sequence[Model],
        own: PeerId,
        inference: InferenceClient,
        offers: Offers,
        prices_of: Callable[[str], tuple[int, int]],
    ) -> None:
        self._configured = {served_name(model): model for model in models}
        self._own, self._inference, self._offers = own, inference, offers
        self._prices_of = prices_of

    def local(self) -> list[ModelListed]:
        """Every model of the configuration, and its adapters."""
        boards = self._inference.boards()
        return [
            entry for name in self._configured for entry in self._own_entries(name, boards[name])
        ]

    async def network(self) -> list[ModelListed]:
        """Every offer of a connected peer."""
        return [_offered(one) for one in await self._offers.offers() if one.peer != self._own]

    async def show(self, model: str) -> ModelShown:
        """One model by its name or its hash in hex.

        Raises:
            ModelNotFound: neither this node nor a connected peer knows it.
        """
        listed = [*self.local(), *await self.network()]
        found = [one for one in listed if model in (one.id, one.hash)]
        if not found:
            raise ModelNotFound(f"nobody connected knows a model {model[:128]!r}", param="id")
        name = found[0].id
        board = self._inference.boards().get(name)  # None also for an adapter
        local = self._local(self._configured[name], board) if board else None
        return ModelShown(name, local, found)

    def processes(self) -> list[ModelProcess]:
        """Every model of the configuration, at work."""
        return [_process(name, board) for name, board in self._inference.boards().items()]

    async def load(self, model: str) -> ModelState:
        """Begin to load a model that was unloaded or failed; `processes` tells when it is ready.

        Raises:
            ModelNotFound: it is not in the configuration.
            NotReady: it is just being unloaded.
        """
        await self._inference.load(model)
        return self._state(model)

    async def unload(self, model: str, *, patience_s: float) -> ModelState:
        """Take a model off the offers and free its memory, when the answers in flight have ended.

        Raises:
            ModelNotFound: it is not in the configuration.
            BadRequest: the patience is out of range.
        """
        if not 0 <= patience_s <= MOST_PATIENCE_S:
            raise BadRequest(f"deadline_s is not 0 to {MOST_PATIENCE_S:g}", param="deadline_s")
        await self._inference.unload(model, patience_s=patience_s)
        return self._state(model)

    async def verify(self, model: str) -> ModelVerified:
        """Read the files of a loaded model again and compare; takes as long as the disk does.

        Raises:
            ModelNotFound: it is not in the configuration.
            NotReady, EngineError: it is not loaded.
        """
        found = await self._inference.verify(model)
        return ModelVerified(
            id=model,
            ok=found.ok,
            expected=found.expected.hex(),
            found=found.found.hex(),
            directory=str(found.directory),
            files=dict(found.files),
            differing=found.differing,
        )

    def _state(self, name: str) -> ModelState:
        board = self._inference.boards()[name]
        return ModelState(name, board.state, _why(board))

    def _own_entries(self, name: str, board: Board) -> Iterator[ModelListed]:
        manifest = board.ready.manifest if board.ready else None
        context = manifest.context if manifest else None
        yield self._own_entry(name, board.state, manifest.hash if manifest else None, context)
        for adapter in board.adapters.values():
            yield self._own_entry(adapter.name, adapter.state, adapter.hash, context)

    def _own_entry(
        self, name: str, state: str, model: ModelHash | None, context: int | None
    ) -> ModelListed:
        prompt, completion = self._prices_of(name)
        return ModelListed(
            id=name,
            hash=model.hex() if model else None,
            context=context,
            price_prompt=prompt,
            price_completion=completion,
            served_by="local",
            state=state,
        )

    def _local(self, model: Model, board: Board) -> LocalModel:
        manifest = board.ready.manifest if board.ready else None
        directory = board.directory if manifest else None
        return LocalModel(
            source=model.id,
            revision=model.revision,
            state=board.state,
            why=_why(board),
            engine=board.choice.engine if board.choice else None,
            engine_reason=board.choice.reason if board.choice else None,
            restarts=board.restarts,
            directory=str(directory) if directory else None,
            weights_bytes=weight_bytes(directory) if directory else None,
            architecture=manifest.architecture if manifest else None,
            parameters=manifest.parameters if manifest else None,
            dtype=manifest.dtype if manifest else None,
            device=manifest.device if manifest else None,
            numeric_class=manifest.numeric_class if manifest else None,
            native=board.native if manifest else None,
            chat=manifest.chat if manifest else None,
        )


def _offered(candidate: Candidate) -> ModelListed:
    offer = candidate.offer
    return ModelListed(
        id=offer.name,
        hash=offer.hash.hex(),
        context=offer.context,
        price_prompt=offer.price_prompt,
        price_completion=offer.price_completion,
        served_by=candidate.peer,
        state="ready",
    )


def _process(name: str, board: Board) -> ModelProcess:
    manifest = board.ready.manifest if board.ready else None
    return ModelProcess(
        id=name,
        state=board.state,
        engine=board.choice.engine if board.choice else None,
        device=manifest.device if manifest else None,
        dtype=manifest.dtype if manifest else None,
        context=manifest.context if manifest else None,
        memory_bytes=memory_bytes_of(board.pid) if board.pid else 0,
        gpu_bytes=board.gpu_bytes if board.pid else 0,
        idle_s=idle_s(board),
        running=board.running,
        waiting=board.waiting,
        slots=board.slots,
    )


def idle_s(board: Board) -> float | None:
    """Seconds since the last answer ended; None while one is written, or without a model."""
    if board.running or not board.ready:
        return None
    return round(trio.current_time() - board.idle_since, 1)


def _why(board: Board) -> str | None:
    return board.error.detail if board.error else None
