"""For whom a task works: what keeps one caller's requests apart from another's.

The node's own applications are told apart by their API keys, peers by the account that pays.  It
goes along with the task, as traces do, also from the gateway to serving in the same process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_owner: ContextVar[str] = ContextVar("owner", default="")


@contextmanager
def asking_for(owner: str) -> Iterator[None]:
    """Work for ``owner`` inside of this."""
    token = _owner.set(owner)
    try:
        yield
    finally:
        _owner.reset(token)


def asker() -> str:
    """For whom this task works; empty for the node itself."""
    return _owner.get()
