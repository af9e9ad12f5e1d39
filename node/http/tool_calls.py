"""Calls of tools, read out of an answer's text while it is written.

What looks like a call and is none stays text: nothing of an answer is lost.

Source: the forms of `r3mes.actors.inference.calls`; Mistral's newer one, ``name[ARGS]{…}``, as its
tokenizer version 11 writes it.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from r3mes.actors.requests.job import TOOL_NAME

_MARKS: Final = {"hermes": ("<tool_call>", "</tool_call>"), "mistral": ("[TOOL_CALLS]", "")}
_TAG: Final = "<|python_tag|>"
_NAMED = re.compile(rf"({TOOL_NAME.pattern})(?:\[CALL_ID\][^\[]*)?(?:\[ARGS\])?\s*(?=\{{)")
_BETWEEN = re.compile(r"[\s;,]*")


@dataclass(frozen=True, slots=True)
class Call:
    """One call; its arguments are JSON text, as OpenAI tells them."""

    id: str
    name: str
    arguments: str


Piece: TypeAlias = "str | Call"


class PlainReader:
    """For answers without tools: all is text."""

    def feed(self, text: str) -> list[Piece]:
        """What ``text`` makes certain."""
        return [text] if text else []

    def end(self) -> list[Piece]:
        """What was held back; the answer has ended."""
        return []


class MarkedReader:
    """For forms with a mark before each call, and perhaps one behind it."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._begin, self._end = _MARKS[form]
        self._held = ""
        self._inside = self._called = False

    def feed(self, text: str) -> list[Piece]:
        """What ``text`` makes certain."""
        self._held += text
        pieces: list[Piece] = []
        while True:
            mark = (self._end or self._begin) if self._inside else self._begin
            at = self._held.find(mark)
            if at < 0:
                return pieces if self._inside else [*pieces, *self._free()]
            before, self._held = self._held[:at], self._held[at + len(mark) :]
            pieces += self._calls(before) if self._inside else self._said(before.rstrip())
            self._inside = not (self._inside and self._end)

    def end(self) -> list[Piece]:
        """What was held back; the answer has ended."""
        rest, self._held = self._held, ""
        if self._inside:
            return self._calls(rest)
        return [] if self._called and rest.isspace() else self._said(rest)

    def _free(self) -> Iterator[Piece]:
        """Text that belongs to no call: without its last white space, and what may be a mark."""
        cut = len(self._held) - _overlap(self._held, self._begin)
        said = self._held[:cut].rstrip()
        self._held = self._held[len(said) :]
        yield from self._said(said)

    def _said(self, text: str) -> list[Piece]:
        return [text] if text else []

    def _calls(self, text: str) -> list[Piece]:
        calls = _calls_in(text, self._form)
        self._called = self._called or bool(calls)
        return [*calls] if calls else [f"{self._begin}{text}{self._end}"]


class BareReader:
    """For Llama 3: an answer that is JSON from its beginning is a call, or several."""

    def __init__(self) -> None:
        self._held = ""
        self._free = False

    def feed(self, text: str) -> list[Piece]:
        """What ``text`` makes certain."""
        self._held += text
        begun = self._held.lstrip()
        maybe = not begun or begun[0] == "{" or _TAG.startswith(begun) or begun.startswith(_TAG)
        self._free = self._free or not maybe
        if not self._free:
            return []
        said, self._held = self._held, ""
        return [said] if said else []

    def end(self) -> list[Piece]:
        """What was held back; the answer has ended."""
        if not self._held:
            return []
        calls = _calls_in(self._held.strip().removeprefix(_TAG), "llama3")
        return [*calls] if calls else [self._held]


CallReader: TypeAlias = PlainReader | MarkedReader | BareReader


def reader_of(form: str) -> CallReader:
    """For answers in a form of calls; all is text in one that is not known."""
    if form in _MARKS:
        return MarkedReader(form)
    return BareReader() if form == "llama3" else PlainReader()


def _calls_in(text: str, form: str) -> list[Call]:
    """All calls, one after the other or in a list; none if anything else is among them."""
    try:
        return [_call(one, form) for one in _objects(text)]
    except (ValueError, RecursionError):
        return []


def _objects(text: str) -> Iterator[object]:
    decoder, at = json.JSONDecoder(), 0
    while (at := _skip(text, at)) < len(text):
        named = _NAMED.match(text, at)
        value, at = decoder.raw_decode(text, named.end() if named else at)
        if named:
            yield {"name": named[1], "arguments": value}
        elif isinstance(value, list):
            yield from value
        else:
            yield value


def _skip(text: str, at: int) -> int:
    found = _BETWEEN.match(text, at)
    return found.end() if found else at


def _call(value: object, form: str) -> Call:
    match value:
        case {"name": str(name), "arguments": dict(arguments)}:
            pass
        case {"name": str(name), "parameters": dict(arguments)}:
            pass
        case _:
            raise ValueError("no call")
    # Mistral's templates take ids of nine letters and digits alone.
    made = secrets.token_hex(5)[:9] if form == "mistral" else f"call_{secrets.token_hex(12)}"
    return Call(made, name, json.dumps(arguments, ensure_ascii=False))


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of ``text`` that ``mark`` begins with."""
    for size in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:size]):
            return size
    return 0
