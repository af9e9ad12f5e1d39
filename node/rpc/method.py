"""How a method is declared: one typed function, with its scope beside it.

    class KeyMethods:
        def __init__(self, keyring: Keyring) -> None: ...

        @method("key_list", scope="a")
        async def list(self) -> list[KeyShown]:
            '''Every key, without its secret.'''

The first line of the docstring is the summary in the documentation, parameters and result are
checked and described by their types.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from r3mes.errors import R3mesError

Scope = Literal["r", "i", "w", "a"]
"""What a key must have: read, invoke, wallet, admin."""

Call = TypeVar("Call", bound=Callable[..., Awaitable[Any]])

_MARK = "__r3mes_rpc__"


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the surface.

    Args:
        name: ``namespace_name``.
        scope: of the key that may call it.
        errors: what it raises besides what every method may.
        call: the function; bound if it was found on an object, else only good for its signature.
    """

    name: str
    scope: Scope
    errors: tuple[type[R3mesError], ...]
    call: Callable[..., Awaitable[Any]]

    @property
    def namespace(self) -> str:
        return self.name.partition("_")[0].partition(".")[0]

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring, on one line."""
        return " ".join(self._docs().partition("\n\n")[0].split())

    @property
    def description(self) -> str:
        """What comes after the first paragraph."""
        return self._docs().partition("\n\n")[2].strip()

    def _docs(self) -> str:
        return inspect.getdoc(self.call) or ""


@dataclass(frozen=True, slots=True)
class _Mark:
    name: str
    scope: Scope
    errors: tuple[type[R3mesError], ...]


def method(
    name: str, *, scope: Scope, errors: tuple[type[R3mesError], ...] = ()
) -> Callable[[Call], Call]:
    """Make a function a method of the surface.

    Args:
        name: ``namespace_name``, such as ``node_info``.
        scope: what a key must have to call it.
        errors: what it raises on purpose, for the documentation; those that every method may
            raise (a wrong parameter, a missing scope, a part of the node that restarts) need not
            be named.
    """

    def mark(call: Call) -> Call:
        setattr(call, _MARK, _Mark(name, scope, errors))
        return call

    return mark


def methods_of(namespace: object) -> Iterator[Method]:
    """The methods of a namespace, in the order of their definition.

    Args:
        namespace: an object of a class with methods; or the class, to look only.
    """
    kind = namespace if isinstance(namespace, type) else type(namespace)
    for attribute, function in vars(kind).items():
        if isinstance(mark := getattr(function, _MARK, None), _Mark):
            yield Method(mark.name, mark.scope, mark.errors, getattr(namespace, attribute))
