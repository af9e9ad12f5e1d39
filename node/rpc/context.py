"""Who calls a method, and over what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from r3mes.errors import BadRequest
from r3mes.node.http.ports import ApiKey

Notify: TypeAlias = Callable[[str, Mapping[str, object]], Awaitable[None]]
"""Sends a notification: its method and parameters."""
Follow: TypeAlias = Callable[[str, Notify], Awaitable[None]]
"""What runs as long as a subscription does; takes its id."""


SLOW_S = 10.0
"""Whoever does not take for so long what is sent reads too slowly."""


class TooSlow(Exception):
    """The caller reads more slowly than there is something to tell."""


class Connection(Protocol):
    """A WebSocket, over which more than answers can be sent."""

    def start(self, follow: Follow, *, to_its_end: bool = False) -> str:
        """Run ``follow`` until it ends, the connection does, or `stop`; the subscription's id.

        It begins when the call has been answered, so that the caller knows the id by then.

        Args:
            follow: what to run.
            to_its_end: it ends by itself, and a node that stops waits for that.

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

    def websocket(self) -> Connection:
        """The connection.

        Raises:
            BadRequest: there is none, or not one over which more than answers can be sent.
        """
        if self.connection is None:
            raise BadRequest(
                "this method sends notifications, which need a WebSocket",
                do="connect to /rpc with a WebSocket",
            )
        return self.connection
