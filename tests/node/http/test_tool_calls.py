"""Calls are read out of the text however it is cut, and what is no call stays text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3mes.node.http.tool_calls import Call, Piece, reader_of

Told = list["str | tuple[str, dict[str, object]]"]

ONE = '{"name": "f", "arguments": {"a": "ä"}}'
TWO = '{"name": "g", "arguments": {}}'
F: tuple[str, dict[str, object]] = ("f", {"a": "ä"})
G: tuple[str, dict[str, object]] = ("g", {})
CASES: list[tuple[str, str, Told]] = [
    ("", f"<tool_call>{ONE}</tool_call>", [f"<tool_call>{ONE}</tool_call>"]),
    ("another", ONE, [ONE]),
    ("hermes", "Hello  world ", ["Hello  world "]),
    ("hermes", f"<tool_call>\n{ONE}\n</tool_call>", [F]),
    ("hermes", f"Let me see.\n<tool_call>{ONE}</tool_call>", ["Let me see.", F]),
    ("hermes", f"<tool_call>{ONE}</tool_call>\n<tool_call>{TWO}</tool_call>\n", [F, G]),
    ("hermes", f"<tool_call>\n{ONE}", [F]),
    ("hermes", "a <tool_call>{nonsense</tool_call> b", ["a<tool_call>{nonsense</tool_call> b"]),
    ("hermes", '<tool_call>{"name": 5}</tool_call>', ['<tool_call>{"name": 5}</tool_call>']),
    ("hermes", "a <tool_ca", ["a <tool_ca"]),
    ("hermes", "1 < 2 <t <tool", ["1 < 2 <t <tool"]),
    ("hermes", "<tool_call>" + "[" * 9999, ["<tool_call>" + "[" * 9999 + "</tool_call>"]),
    ("mistral", f"[TOOL_CALLS][{ONE}, {TWO}]", [F, G]),
    ("mistral", f"[TOOL_CALLS] [{ONE}]", [F]),
    ("mistral", 'f[TOOL_CALLS]f[ARGS]{"a": "ä"}[TOOL_CALLS]g[CALL_ID]x1[ARGS]{}', ["f", F, G]),
    ("mistral", 'Ok.[TOOL_CALLS]f{"a": "ä"}', ["Ok.", F]),
    ("mistral", "[TOOL_CALLS]none", ["[TOOL_CALLS]none"]),
    ("llama3", ONE.replace("arguments", "parameters"), [F]),
    ("llama3", f"<|python_tag|>{ONE}; {TWO}", [F, G]),
    ("llama3", f"\n {ONE}", [F]),
    ("llama3", '{"answer": 42}', ['{"answer": 42}']),
    ("llama3", f"No: {ONE}", [f"No: {ONE}"]),
    ("llama3", " <|py", [" <|py"]),
]


def told(pieces: list[Piece]) -> Told:
    """Neighbouring texts as one, calls without their ids."""
    out: Told = []
    for piece in pieces:
        if isinstance(piece, Call):
            out.append((piece.name, json.loads(piece.arguments)))
        elif out and isinstance(out[-1], str):
            out[-1] += piece
        else:
            out.append(piece)
    return out


@pytest.mark.parametrize(("form", "text", "expected"), CASES, ids=range(len(CASES)))
@pytest.mark.parametrize("size", [1, 3, 7, 100_000])
def test_an_answer_is_read(form: str, text: str, expected: Told, size: int) -> None:
    reader = reader_of(form)
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    assert told([piece for part in parts for piece in reader.feed(part)] + reader.end()) == expected


@given(st.sampled_from(["hermes", "mistral", "llama3"]), st.lists(st.text("<tol_ca>/[TOOLCS] {}")))
def test_text_without_calls_stays_whole(form: str, parts: list[str]) -> None:
    reader = reader_of(form)
    pieces = [piece for part in parts for piece in reader.feed(part)] + reader.end()
    said = "".join(piece for piece in pieces if isinstance(piece, str))
    assert "".join(said.split()) == "".join("".join(parts).split()) or "<tool_call>" in said


def test_text_is_told_as_soon_as_it_is_certain() -> None:
    reader = reader_of("hermes")
    assert reader.feed("Hello") == ["Hello"]
    assert reader.feed(" <") == []
    assert reader.feed("b>") == [" <b>"]


def test_ids_are_such_that_templates_take_them() -> None:
    first, second = reader_of("mistral"), reader_of("hermes")
    first.feed(f"[TOOL_CALLS][{TWO}]")
    (call,) = first.end()
    assert isinstance(call, Call)
    assert len(call.id) == 9
    assert call.id.isalnum()
    (other,) = second.feed(f"<tool_call>{TWO}</tool_call>")
    assert isinstance(other, Call)
    assert other.id.startswith("call_")
