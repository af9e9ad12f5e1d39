"""What the surface says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from r3mes.node.rpc.context import Context
from r3mes.node.rpc.method import Method, method

VERSION = "1.0"
"""Of every namespace so far."""


class Surface(Protocol):
    """All methods by name."""

    @property
    def methods(self) -> Mapping[str, Method]: ...
    @property
    def document(self) -> dict[str, object]: ...


class RpcMethods:
    """The namespace ``rpc``."""

    def __init__(self, surface: Surface) -> None:
        self._surface = surface

    @method("rpc.discover", scope="r")
    async def discover(self) -> dict[str, object]:
        """This surface as an OpenRPC document.

        It publishes the limit on batches as `x-max-batch` and each method's scope as `x-scope`.
        """
        return self._surface.document

    @method("rpc_modules", scope="r")
    async def modules(self, context: Context) -> dict[str, str]:
        """The namespaces of which the caller's key may use at least one method, with versions."""
        methods = self._surface.methods.values()
        return {one.namespace: VERSION for one in methods if one.scope in context.key.scopes}
