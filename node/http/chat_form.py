"""What an answer must look like: ``response_format`` and ``structured_outputs``.

Source: OpenAI API reference, "Structured outputs"; vLLM's ``structured_outputs`` (its only spelling
since 0.12; without ``structural_tag``, ``whitespace_pattern`` and the choice of a backend).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from r3mes.actors.requests.job import GRAMMAR_CAP
from r3mes.errors import BadRequest
from r3mes.node.http.fields import Name

MAX_TEXTS = 1000


class JsonSchema(BaseModel):
    """A schema with the name that OpenAI wants for it; it is always followed strictly."""

    name: Name
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """OpenAI's ``response_format``."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def form(self) -> tuple[str, str]:
        """Kind and text of the grammar, both empty if the answer is free.

        Raises:
            BadRequest: the schema is missing or too large.
        """
        match self.type:
            case "text":
                return "", ""
            case "json_object":
                return "json_object", ""
        if self.json_schema is None:
            raise _wrong("json_schema is missing", "response_format")
        schema = self.json_schema.schema_
        return "json_schema", _capped(json.dumps(schema or {}), "response_format")


class StructuredOutputs(BaseModel):
    """vLLM's ``structured_outputs``: exactly one of these.

    Args:
        json_: a JSON schema, or its text.
        json_object: true for any JSON object.
        regex: a regular expression of the Rust crate ``regex``, for the whole answer.
        choice: the answer is one of these texts.
        grammar: Lark as llguidance reads it, or GBNF.
    """

    model_config = ConfigDict(extra="forbid")

    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    json_object: Literal[True] | None = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)] | None = None
    grammar: str | None = None

    def form(self) -> tuple[str, str]:
        """Kind and text of the grammar.

        Raises:
            BadRequest: none of them is given or more than one, or it is too large.
        """
        given = {name: value for name, value in self if value is not None}
        if len(given) != 1:
            raise _wrong("exactly one form can be given", "structured_outputs")
        ((name, value),) = given.items()
        match name:
            case "json_":
                kind, text = "json_schema", value if isinstance(value, str) else json.dumps(value)
            case "json_object":
                kind, text = "json_object", ""
            case "choice":
                kind, text = "choice", json.dumps(value)
            case _:
                kind, text = name, value
        return kind, _capped(text, "structured_outputs")


def _capped(text: str, param: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise _wrong("half of a surrogate pair is no character", param) from None
    if size > GRAMMAR_CAP:
        raise _wrong(f"{size} bytes where {GRAMMAR_CAP} are the limit", param)
    return text


def _wrong(why: str, param: str) -> BadRequest:
    return BadRequest(f"{param}: {why}", param=param)
