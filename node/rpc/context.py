"""Who calls a method."""

from __future__ import annotations

from dataclasses import dataclass

from r3mes.node.http.ports import ApiKey


@dataclass(frozen=True, slots=True)
class Context:
    """What a method may know of its caller, by a parameter of this type.

    Args:
        key: with which the caller came; over the admin socket one with every scope.
    """

    key: ApiKey
