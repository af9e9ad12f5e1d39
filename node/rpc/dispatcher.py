"""Takes a message apart, has each call answered, and puts the answers together.

pjrpc 2.2 does the work; changed here is what it does otherwise than the specification: an answer to
each malformed member of a batch, none to a batch of notifications, one to ``"id": null``.  Its
parallel executor needs asyncio; ours runs on trio.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cached_property, wraps
from math import inf
from typing import Any, TypeAlias

import msgspec
import trio
from pjrpc.common import MaybeSet, Request, Response, UnsetType
from pjrpc.server import AsyncDispatcher, MethodRegistry
from pjrpc.server.dispatcher import AsyncExecutor
from pjrpc.server.typedefs import AsyncHandlerType

from r3mes.errors import CallMalformed, Forbidden, MethodNotFound, R3mesError
from r3mes.node.audit import audit
from r3mes.node.http.ports import ApiKey
from r3mes.node.rpc.context import Context
from r3mes.node.rpc.messages import (
    MAX_BATCH,
    decode,
    encode,
    failure,
    request_of,
    rpc_error,
)
from r3mes.node.rpc.method import Method, methods_of
from r3mes.node.rpc.methods.rpc import RpcMethods
from r3mes.node.rpc.openrpc import document
from r3mes.node.rpc.params import Params, ParamsFactory

NOTED_EVERY_S = 60.0
"""How often at most the audit log notes the same method of the same key: some only look."""

OK, OTHER = "ok", "other"
"""What a call that succeeded is told as; and a method that there is not."""
Called: TypeAlias = Callable[[str, str], None]
"""Told of an answer: the method, and ``ok`` or the code of the error."""

PARALLEL = 16
"""Calls of one batch that run side by side."""

logging.getLogger("pjrpc").setLevel(
    logging.CRITICAL + 1
)  # it logs parameters: passphrases, prompts


class TrioExecutor(AsyncExecutor):
    """Runs the calls of a batch side by side; the answers keep the order of the calls."""

    async def execute(
        self,
        handler: Callable[..., Awaitable[Any]],
        /,
        requests: Iterable[Any],
        *args: Any,
        **kwargs: Any,
    ) -> Iterable[Any]:
        answers: dict[int, Any] = {}
        limiter = trio.CapacityLimiter(PARALLEL)

        async def run(at: int, request: Any) -> None:
            async with limiter:
                answers[at] = await handler(request, *args, **kwargs)

        async with trio.open_nursery() as nursery:
            for at, request in enumerate(requests):
                nursery.start_soon(run, at, request)
        return [answers[at] for at in sorted(answers)]


def untold(method: str, code: str) -> None:
    """Nobody counts."""


class Dispatcher(AsyncDispatcher[Context]):
    """All methods of the surface, and how a message reaches them.

    Args:
        namespaces: objects with methods (`method`); ``rpc`` is added to them.
        called: told of every answer.
    """

    def __init__(self, *namespaces: object, called: Called = untold) -> None:
        super().__init__(executor=TrioExecutor(), middlewares=[self._guard])
        self.methods: Mapping[str, Method] = _by_name([RpcMethods(self), *namespaces])
        self._called = called
        self._noted: dict[tuple[str, str | None], float] = {}
        registry = MethodRegistry(ParamsFactory())
        for name, method in self.methods.items():
            context = Params(method.call).context
            registry.add_method(_walled(method), name, pass_context=context or False)
        self.add_methods(registry)

    @cached_property
    def document(self) -> dict[str, object]:
        """The surface as OpenRPC describes it; made once, which takes a while."""
        return document(self.methods.values())

    async def answer(self, body: bytes, context: Context) -> bytes | None:
        """The answer to one message, which may be a batch; None if it wants none."""
        try:
            message = decode(body)
            if isinstance(message, list):
                return await self._batch(message, context)
        except R3mesError as error:
            self._called(OTHER, error.kind.code)
            return encode(failure(None, error).to_json())
        response = await self._one(message, context)
        return None if isinstance(response, UnsetType) else encode(response.to_json())

    async def _batch(self, message: list[object], context: Context) -> bytes | None:
        if not message:
            raise CallMalformed("the batch is empty")
        if len(message) > MAX_BATCH:
            raise CallMalformed(f"{len(message)} calls in a batch, the limit is {MAX_BATCH}")
        answers = await self._executor.execute(self._one, message, context)  # type: ignore[arg-type]
        told = [one.to_json() for one in answers if not isinstance(one, UnsetType)]
        return encode(told) if told else None

    async def _one(self, entry: object, context: Context) -> MaybeSet[Response]:
        try:
            request = request_of(entry)
        except CallMalformed as error:
            self._called(OTHER, error.kind.code)
            return failure(entry, error)
        return await self._handle_request(request, context)

    async def _guard(
        self, request: Request, context: Context, handler: AsyncHandlerType[Context]
    ) -> MaybeSet[Response]:
        """The key's scope before anything else, and every failure in our form."""
        try:
            if context.check_key is not None:
                await context.check_key(counted=True)
            self._allow(request.method, context.key)
            self._audit(self.methods[request.method], context.key)
            response = await handler(request, context)
        except Exception as error:  # noqa: BLE001  crash boundary: every failure has an answer
            told = rpc_error(error)
            self._tell(request, told.data["code"] if isinstance(told.data, dict) else OTHER)
            raise told from None
        self._tell(request, OK)
        return response

    def _tell(self, request: Request, code: str) -> None:
        self._called(request.method if request.method in self.methods else OTHER, code)

    def _allow(self, name: str, key: ApiKey) -> None:
        method = self.methods.get(name)
        if method is None:
            raise MethodNotFound(f"there is no method {name[:64]!r}")
        if method.scope not in key.scopes:
            raise Forbidden(
                f"the key {key.name!r} lacks the scope {method.scope!r}, which {name} needs",
                do="use a key that has it, or the admin socket on the node's machine",
            )

    def _audit(self, method: Method, key: ApiKey) -> None:
        """Note who uses what may change the node or its money; what it changed has own events."""
        called, now = (method.name, key.id), trio.current_time()
        if method.scope in "aw" and now - self._noted.get(called, -inf) >= NOTED_EVERY_S:
            self._noted[called] = now
            audit("rpc_called", method=method.name, scope=method.scope, by=key.name, key=key.id)


def _by_name(namespaces: Sequence[object]) -> dict[str, Method]:
    methods = [method for namespace in namespaces for method in methods_of(namespace)]
    names = [method.name for method in methods]
    if len(set(names)) != len(names):
        raise ValueError(f"two methods have the same name: {sorted(names)}")
    return {method.name: method for method in methods}


def _walled(method: Method) -> Callable[..., Awaitable[msgspec.Raw]]:
    """The method, with its result encoded and its failures told before pjrpc could log them."""

    @wraps(method.call)
    async def call(**params: Any) -> msgspec.Raw:
        try:
            return msgspec.Raw(encode(await method.call(**params)))
        except Exception as error:  # noqa: BLE001  crash boundary: every failure has an answer
            raise rpc_error(error) from None

    return call
