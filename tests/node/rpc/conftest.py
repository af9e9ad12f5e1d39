"""Calls a dispatcher directly, as a caller with some scopes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from r3mes.node.rpc.context import Context
from r3mes.node.rpc.dispatcher import Dispatcher


@dataclass(frozen=True)
class Key:
    id: str = "test"
    name: str = "test"
    scopes: frozenset[str] = frozenset("riwa")
    models: tuple[str, ...] | None = None
    rpm: int | None = None


@dataclass
class Caller:
    """Asks ``rpc``; the result, or the whole error."""

    rpc: Dispatcher
    key: Key = field(default_factory=Key)

    async def __call__(self, name: str, **params: object) -> Any:
        call = {"jsonrpc": "2.0", "id": 1, "method": name, "params": params}
        told = await self.rpc.answer(msgspec.json.encode(call), Context(self.key))
        assert told is not None
        answer = msgspec.json.decode(told)
        return answer["result"] if "result" in answer else answer["error"]
