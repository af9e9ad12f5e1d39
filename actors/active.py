"""The requests under way: what an operator sees of them, and how one is ended from outside."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from r3mes.actors.observing import Source, Watched
from r3mes.errors import RequestCancelled


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A request at one moment; never what it says.

    Args:
        request_id: names it for `Active.cancel`.
        source: ``api`` for an application of this node, ``peer`` for one of another node.
        state: ``queued`` until somebody has taken it, then ``running``.
    """

    request_id: str
    source: Source
    model: str
    state: str
    age_s: float
    prompt_tokens: int
    completion_tokens: int


@dataclass(eq=False, slots=True)
class _Entry:
    request_id: str
    watched: Watched
    key_id: str | None
    began: float = field(default_factory=trio.current_time)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def look(self) -> UnderWay:
        watched = self.watched
        return UnderWay(
            request_id=self.request_id,
            source=watched.source,
            model=watched.model,
            state="running" if watched.prompt_tokens else "queued",
            age_s=round(trio.current_time() - self.began, 3),
            prompt_tokens=watched.prompt_tokens,
            completion_tokens=watched.completion_tokens,
        )


class Active:
    """All of them; gateway and serving enter theirs.

    What the node asks itself is entered by both, and shown as the application's alone.
    """

    def __init__(self) -> None:
        self._entries: dict[_Entry, None] = {}  # in the order of their coming

    @contextmanager
    def enter(
        self, watched: Watched, request_id: str = "", key_id: str | None = None
    ) -> Iterator[None]:
        """List a request while the block runs.

        Args:
            watched: what is known of it.
            request_id: made if it is empty.
            key_id: the API key that it came with.

        Raises:
            RequestCancelled: it was cancelled.
        """
        entry = _Entry(request_id or f"req_{secrets.token_hex(12)}", watched, key_id)
        self._entries[entry] = None
        try:
            with entry.scope:
                yield
            if entry.scope.cancelled_caught:
                raise RequestCancelled(f"the request {entry.request_id} was cancelled")
        finally:
            del self._entries[entry]

    def all(self) -> list[UnderWay]:
        """The oldest first."""
        return [entry.look() for entry in self._entries if entry.watched.source != "local"]

    def cancel(self, request_id: str, *, key_id: str | None) -> bool:
        """End an application's request; False if there is none of this id, or it is another key's.

        Args:
            request_id: as it was entered.
            key_id: the key that it must have come with; None for whatever key.
        """
        found = [
            entry
            for entry in self._entries
            if entry.watched.source == "api"
            and entry.request_id == request_id
            and key_id in (None, entry.key_id)
        ]
        for entry in found:
            entry.scope.cancel()
        return bool(found)
