"""What the fields of several bodies have in common, and the names of those that we do not know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from r3mes.actors.requests.job import TOOL_NAME

MAX_IGNORED = 32
PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _encodable(text: str) -> str:
    """Refuse lone surrogates, which JSON can write as escapes and UTF-8 cannot carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("text", "half of a surrogate pair is no character") from None
    return text


def _no_boolean(value: object) -> object:
    """Refuse true and false, which pydantic would take for 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "input should be a number")
    return value


Number = BeforeValidator(_no_boolean)
Encodable = AfterValidator(_encodable)
Text = Annotated[str, Encodable]
Name = Annotated[str, Field(pattern=f"^{TOOL_NAME.pattern}$")]


def listed(unknown: Iterable[str]) -> str:
    """Names of fields for ``x-r3mes-ignored``, with commas; ``?`` for those unfit for a header."""
    names = sorted(unknown)[:MAX_IGNORED]
    return ",".join(name if PLAIN.fullmatch(name) else "?" for name in names)
