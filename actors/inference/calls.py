"""Calls of tools as a model writes them: in which form, and a grammar that forces one.

The chat template of a model shows the form that it was trained for.  A form that is not known here
is refused, because the caller would get the call as text.

Source: the chat templates of Hermes and Qwen, of Llama 3.1 to 3.3 and of Mistral's instruct models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from r3mes.actors.inference.grammar import JSON_FORM, quoted
from r3mes.actors.requests.job import ANY_CALL
from r3mes.errors import BadRequest

Tool: TypeAlias = Mapping[str, Any]
NO_ARGUMENTS: Final = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a model writes a call.

    Args:
        name: for the wire.
        begin, end: around the name and the arguments of a call.
        arguments: what the member with the arguments is called.
        marks: special tokens that are a part of the form, and so must be seen in the text.
    """

    name: str
    begin: tuple[str, ...]
    end: tuple[str, ...]
    arguments: str
    marks: tuple[str, ...]


HERMES = CallForm(
    "hermes",
    ("<tool_call>", "\n"),
    ("\n", "</tool_call>"),
    "arguments",
    ("<tool_call>", "</tool_call>"),
)
MISTRAL = CallForm(
    "mistral", ("[TOOL_CALLS]", "["), ("]",), "arguments", ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
)
LLAMA = CallForm("llama3", (), (), "parameters", ("<|python_tag|>",))


def form_of(template: str) -> CallForm:
    """The form that a chat template shows.

    Raises:
        BadRequest: it has no place for tools, or its form is not known here.
    """
    if "tools" not in template:
        raise BadRequest("this model's chat template has no place for tools", param="tools")
    if "[TOOL_CALLS]" in template:
        return MISTRAL
    if "<tool_call>" in template and "<function=" not in template:
        return HERMES
    if '"parameters": ' in template:
        return LLAMA
    raise BadRequest("this model writes calls of tools in a form that is not known", param="tools")


def call_grammar(
    form: CallForm, tools: Sequence[Tool], call: str, special: Mapping[str, int]
) -> str:
    """A Lark grammar of one call.

    Args:
        form: of the call.
        tools: as OpenAI describes them.
        call: the name of the one to call; ``*`` for any.
        special: ids of the form's marks that are special tokens, whose text is none.
    """
    chosen = [one["function"] for one in tools if call in (ANY_CALL, one["function"]["name"])]
    calls = " | ".join(f"call{at}" for at in range(len(chosen)))
    begin = [_edge(part, special) for part in form.begin]
    end = [_edge(part, special) for part in form.end]
    lines = [f"start: {' '.join([*begin, f'({calls})', *end])}"]
    for at, function in enumerate(chosen):
        head = f'{{"name": {json.dumps(function["name"])}, "{form.arguments}": '
        schema = dict(function.get("parameters") or NO_ARGUMENTS) | {"x-guidance": JSON_FORM}
        lines.append(f'call{at}: {quoted(head)} arguments{at} "}}"')
        lines.append(f"arguments{at}: %json {json.dumps(schema)}")
    return "\n".join(lines)


def _edge(part: str, special: Mapping[str, int]) -> str:
    return f"<[{special[part]}]>" if part in special else quoted(part)
