"""The gateway as one key sees it: with its models alone, and its name on every receipt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

from r3mes.actors.gateway import ChatRequest
from r3mes.config.schema import AUTO
from r3mes.errors import Forbidden
from r3mes.node.http.ports import Answer, ApiKey, Gateway, ModelEntry


class KeyedGateway:
    """Every surface that a key opens asks models through one of these.

    Args:
        gateway: the node's.
        key: the caller's; a model in its list is named by name or by hash.
    """

    def __init__(self, gateway: Gateway, key: ApiKey) -> None:
        self._gateway, self._key = gateway, key

    def complete(self, request: ChatRequest) -> AbstractAsyncContextManager[Answer]:
        """As `Gateway.complete`.

        Raises:
            Forbidden: the key may not ask this model.
        """
        request = replace(request, key_id=self._key.id)
        if request.model == AUTO:
            return self._chosen(request)
        self.check(request.model)
        return self._gateway.complete(request)

    @asynccontextmanager
    async def _chosen(self, request: ChatRequest) -> AsyncIterator[Answer]:
        async with self._gateway.complete(await self.choose(request)) as answer:
            yield answer

    async def choose(self, request: ChatRequest) -> ChatRequest:
        """``request`` with the model that is asked: the router's choice if it is ``auto``.

        Raises:
            Forbidden: the key may not ask it.
        """
        if request.model != AUTO:
            self.check(request.model)
            return request
        chosen = await self._gateway.choose(request)
        await self.check_chosen(chosen.model)
        return chosen

    async def check_chosen(self, model: str) -> None:
        """See that the key may ask the ``model`` that the router chose.

        Raises:
            Forbidden: it may not; the error does not name a model that the key may not see.
        """
        models = self._key.models
        if models is not None and not await self.may_ask(model):
            raise Forbidden(
                f"the router chose a model that the key {self._key.name!r} is not for",
                do=f"ask one of these by name: {', '.join(models)}",
                param="model",
            )

    async def may_ask(self, name: str) -> bool:
        """Whether the key may ask the model of this name, by its name or by its hash."""
        return self.allows(name) or name in [one.id for one in await self.models()]

    async def models(self) -> Sequence[ModelEntry]:
        """Those that the key may ask."""
        found = await self._gateway.models()
        return [one for one in found if self.allows(one.id, one.hash_hex)]

    def allows(self, *names: str) -> bool:
        """Whether the key may ask a model that is called by any of these.

        Every key may ask ``auto``: what it stands for is checked when it is chosen.
        """
        models = self._key.models
        return models is None or not {AUTO, *models}.isdisjoint(names)

    def check(self, model: str) -> None:
        """See that the key may ask ``model``.

        Raises:
            Forbidden: it may not; the error names those that it may ask.
        """
        models = self._key.models
        if models is not None and not self.allows(model):
            raise Forbidden(
                f"the key {self._key.name!r} is for {', '.join(models)}, not for {model!r}",
                do="ask one of these, or use a key without a list of models",
                param="model",
            )
