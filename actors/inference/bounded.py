"""Jinja's sandbox with bounds on memory: what a template asks for is measured before it is made.

The sandbox keeps a template from other people's objects and not from ``'x'.ljust(10**10)``, which
is one call into C that nobody can interrupt.  So what multiplies its arguments is estimated from
them, what joins texts is counted while it joins, and what is left is seen by the memory that this
process takes.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from math import prod
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

PRODUCT_CAP = 1_000_000
"""Largest number or length that a multiplication in a template may give."""
TEXT_CAP = 16_000_000
"""Characters or entries of anything else that a template makes."""
MEMORY_CAP = 256 << 20
"""Bytes that the process may grow by while it renders."""
WORTH_A_LOOK = 1024
"""Characters of a result after which the memory is looked at."""
WIDENING = frozenset(
    {
        "batch", "center", "expandtabs", "format", "format_map", "fromkeys", "indent", "ljust",
        "pprint", "rjust", "slice", "string", "sum", "to_bytes", "tojson", "translate", "wordwrap",
        "xmlattr", "zfill",
    }
)  # fmt: skip
"""Filters and methods whose result may be longer than their arguments together."""

_NUMBER = re.compile(r"\d{1,20}")
_STATM, _PAGE = Path("/proc/self/statm"), os.sysconf("SC_PAGE_SIZE")
_rendering = threading.local()


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """For templates of which not even the size of what they make is trusted."""

    intercepted_binops = frozenset(["*", "**", "%", "+"])

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters = {name: bounded(name, one) for name, one in self.filters.items()}

    def _generate(self, *args: Any, **options: Any) -> str:
        """The template's Python, in which what joins texts is ours."""
        bounds = "concat = str_join = environment.concat\nstr = environment.text\n"
        return f"{super()._generate(*args, **options)}\n{bounds}"

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "*" and _size(left) * _size(right) > PRODUCT_CAP):
            raise jinja2.exceptions.SecurityError(f"{operator} is too large here")
        if operator == "%" and isinstance(left, str | bytes):
            _check(_formatted(left, right))
        if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _check(len(left) + len(right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str | bytes | int | dict | type):
            args = _estimate(name, (owner, *args), kwargs)[1:]
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        inner = super().wrap_str_format(value)
        if inner is None:
            return None

        def formatted(*args: Any, **kwargs: Any) -> str:
            _check(_formatted(value.__self__, (args, kwargs)))
            return inner(*args, **kwargs)

        return formatted

    @staticmethod
    def concat(parts: Iterable[Any]) -> str:
        """All of them as one text."""
        return "".join(_counted(map(BoundedEnvironment.text, parts)))

    @staticmethod
    def text(value: Any) -> str:
        """A value as it is shown."""
        if isinstance(value, str):
            return value
        _check(_weight(value))
        return str(value)


def begin() -> None:
    """A template is about to be rendered by this thread."""
    _rendering.began = _resident()


def _resident() -> int:
    return int(_STATM.read_text().split()[1]) * _PAGE


def _check(size: int) -> None:
    """Refuse what is too long, or comes on top of too much."""
    if size > TEXT_CAP:
        raise jinja2.exceptions.SecurityError("what the template makes is too large")
    began = getattr(_rendering, "began", None)
    if size >= WORTH_A_LOOK and began is not None and _resident() - began > MEMORY_CAP:
        raise jinja2.exceptions.SecurityError("the template takes too much memory")


def _counted(parts: Iterable[str]) -> Iterator[str]:
    total = 0
    for part in parts:
        total += len(part) + 1
        if total > TEXT_CAP:
            _check(total)
        yield part
    _check(total)


def _size(value: Any) -> int:
    if isinstance(value, int):
        return abs(value)
    return len(value) if isinstance(value, str | bytes | list | tuple) else 1


def _weight(value: Any) -> int:
    """Characters that it is shown with, at least about; a number counts as itself."""
    total, left = 0, [value]
    while left and total <= TEXT_CAP:
        one = left.pop()
        total += 1
        if isinstance(one, Mapping):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            left += one
        elif isinstance(one, str | bytes):
            total += len(one)
    return total


def _formatted(form: str | bytes, arguments: Any) -> int:
    """The length of a formatted text, at most."""
    text = form if isinstance(form, str) else form.decode("latin-1")
    widths = sum(int(number) for number in _NUMBER.findall(text))
    return (len(text) + widths + 1) * (_weight(arguments) + _widest(arguments) + 1)


def _widest(value: Any) -> int:
    """The largest number in it, which may be a width."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        return max(map(_widest, value), default=0)
    return abs(value) if isinstance(value, int) else 0


def bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses to make what would be too large."""

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        return function(*_estimate(name, args, kwargs), **kwargs)

    return checked


def _estimate(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Refuse a call whose result may be too large; returns arguments that can be read again."""
    if name not in WIDENING and name not in ("join", "replace"):
        return args
    args = tuple(list(_taken(one)) if isinstance(one, Iterator) else one for one in args)
    given = [one for one in (*args, *kwargs.values()) if _is_data(one)]
    if name == "replace" and all(isinstance(one, str) for one in given[:3]) and len(given) >= 3:
        text, old, new = given[:3]
        _check(len(text) + text.count(old) * len(new))
    elif name == "join":
        entries = max((len(one) for one in given if hasattr(one, "__len__")), default=0)
        texts = sum(len(one) for one in given if isinstance(one, str))
        _check(sum(map(_weight, given)) + entries * texts)
    else:
        _check(prod(1 + max(_weight(one), _widest(one)) for one in given))
    return args


def _is_data(value: Any) -> bool:
    return isinstance(value, str | bytes | int | list | tuple | Mapping)


def _taken(entries: Iterator[Any]) -> Iterator[Any]:
    for at, entry in enumerate(entries):
        if at > PRODUCT_CAP:
            _check(TEXT_CAP + 1)
        yield entry
