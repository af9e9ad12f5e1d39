"""Who calls a method, and over what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from r3mes.node.http.ports import ApiKey

Notify: TypeAlias = Callable[[str, Mapping[str, object]], Awaitable[None]]
"""Sends a notification: its method and parameters."""
Follow: TypeAlias = Callable[[str, Notify], Awaitable[None]]
"""What runs as long as a subscription does; takes its id."""


class TooSlow(Exception):
    """The caller reads more slowly than there is something to tell."""


class Connection(Protocol):
    """A WebSocket, over which more than answers can be sent."""

    def start(self, follow: Follow) -> str:
        """Run ``follow`` until it ends, the connection does, or `stop`; the subscription's id.

        Raises:
            Overloaded: the connection has too many subscriptions.
        """
        ...

    def stop(self, subscription: str) -> bool:
        """End a subscription; False if there is none of this id."""
        ...


class CheckKey(Protocol):
    """The caller's key as it is now; raises when it may not be used (any more).

    ``counted`` as one more request it may be one too many.
    """

    async def __call__(self, *, counted: bool) -> ApiKey: ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a method may know of its caller, by a parameter of this type.

    Args:
        key: with which the caller came; over the admin socket one with every scope.
        connection: None over plain HTTP.
        check_key: asked before each call, so that those of a batch count as if they came alone.
    """

    key: ApiKey
    connection: Connection | None = None
    check_key: CheckKey | None = None
