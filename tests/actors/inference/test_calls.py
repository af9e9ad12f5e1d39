"""Calls of tools: the form is found in the template, and a forced call is one by its schema."""

from __future__ import annotations

import json
from typing import Any

import pytest

from r3mes.actors.inference.calls import (
    HERMES,
    LLAMA,
    MISTRAL,
    CallForm,
    Tool,
    call_grammar,
    form_of,
)
from r3mes.actors.inference.grammar import compiled_lark
from r3mes.errors import BadRequest
from r3mes.node.http.tool_calls import Call, reader_of
from tests.actors.inference.test_grammar import END, text_of, write

TOOLS: list[Tool] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"$ref": "#/$defs/City"}, "days": {"enum": [1, 3]}},
                "required": ["city", "days"],
                "additionalProperties": False,
                "$defs": {"City": {"enum": ["Bern", 'Köln "am Rhein" ::= <x>']}},
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
QWEN = "{% if tools %}<tools>…</tools> within <tool_call></tool_call> tags{% endif %}"


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (QWEN, HERMES),
        ("[AVAILABLE_TOOLS]{{ tools }}[/AVAILABLE_TOOLS] [TOOL_CALLS]", MISTRAL),
        ('{{ tools }} {"name": function name, "parameters": dictionary} <|python_tag|>', LLAMA),
    ],
)
def test_the_form_is_that_of_the_template(template: str, form: CallForm) -> None:
    assert form_of(template) is form


@pytest.mark.parametrize(
    "template",
    ["{{ messages }}", "{{ tools }}", "{{ tools }}<tool_call><function=name><parameter=x>"],
)
def test_a_template_of_another_kind_is_refused(template: str) -> None:
    with pytest.raises(BadRequest, match="this model") as refused:
        form_of(template)
    assert refused.value.param == "tools"


@pytest.mark.parametrize("form", [HERMES, MISTRAL, LLAMA], ids=lambda form: form.name)
@pytest.mark.parametrize("call", ["weather", "now", "*"])
def test_a_model_that_knows_nothing_writes_a_valid_call(form: CallForm, call: str) -> None:
    ids, ended = write(compiled_lark(call_grammar(form, TOOLS, call, {})))
    assert ended == "stop"
    reader = reader_of(form.name)
    (made,) = [piece for one in text_of(ids) for piece in reader.feed(one)] + reader.end()
    assert isinstance(made, Call)
    assert made.name == call or (call == "*" and made.name in ("weather", "now"))
    arguments: dict[str, Any] = json.loads(made.arguments)
    if made.name == "now":
        assert arguments == {}
    else:
        assert arguments["city"] in ("Bern", 'Köln "am Rhein" ::= <x>')
        assert arguments["days"] in (1, 3)


def test_a_mark_that_is_a_special_token_is_written_as_that_token() -> None:
    """As if the end of this toy's answers were Mistral's mark; it is no end within the grammar."""
    grammar = call_grammar(MISTRAL, TOOLS, "now", {"[TOOL_CALLS]": END})
    assert compiled_lark(grammar)
    assert grammar.startswith(f'start: <[{END}]> "["')


def test_parameters_that_are_no_schema_are_refused_before_work() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}}]
    with pytest.raises(BadRequest, match="tools cannot be followed"):
        compiled_lark(call_grammar(HERMES, tools, "*", {}))
