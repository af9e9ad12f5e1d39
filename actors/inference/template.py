"""Chat templates: untrusted Jinja from a model's files, rendered as transformers renders it.

Source: ``transformers.utils.chat_template_utils`` 5.23, whose environment this is without
importing transformers (1.2 s, and torch with it).  Left out: documents, and the marks
of assistant tokens, whose block is rendered as plain text.  Added: bounds on what a template may
make, because the sandbox lets it ask for ``'x' * 10**10``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from r3mes.actors.inference.bounded import BoundedEnvironment, begin, bounded
from r3mes.errors import BadRequest

PLAIN = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
)
"""For models that come without a template: they were not trained for chat, so any form will do."""


class _Generation(Extension):
    """``{% generation %}…{% endgeneration %}``: marks for training, of no effect here."""

    tags = {"generation"}  # noqa: RUF012  so declared by jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


class ChatTemplate:
    """A compiled template.

    Args:
        source: Jinja text.
        special_tokens: names and texts for the template, such as ``("bos_token", "<s>")``.

    Raises:
        ValueError: it is not a Jinja template.
    """

    def __init__(self, source: str, special_tokens: Sequence[tuple[str, str]]) -> None:
        environment = BoundedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = bounded("tojson", _tojson)
        del environment.globals["lipsum"]  # thousands of paragraphs in one call
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"the chat template is not valid Jinja: {error}") from None
        self._special_tokens = dict(special_tokens)

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        tools: Sequence[Mapping[str, object]] = (),
    ) -> str:
        """The prompt as text, ready for the answer.

        Args:
            messages: the conversation.
            tools: that the model is shown, as OpenAI describes them.

        Raises:
            BadRequest: the template does not accept these messages.
        """
        plain = [_plain(message) for message in messages]
        if not plain:
            raise BadRequest("there are no messages", param="messages")
        begin()
        try:
            return self._template.render(
                messages=plain,
                add_generation_prompt=True,
                tools=[dict(tool) for tool in tools] or None,
                documents=None,
                **self._special_tokens,
            )
        except Exception as error:
            raise BadRequest(
                f"the model's chat template does not accept these messages: {error}",
                param="messages",
            ) from error


def _plain(message: Mapping[str, object]) -> dict[str, object]:
    """A copy that the template may have, its content as one text.

    Most templates know no parts, and all know text.
    """
    copy = json.loads(json.dumps(message))
    if not isinstance(copy, dict):
        raise BadRequest("a message is not an object", param="messages")
    content = copy.get("content")
    if isinstance(content, list):
        copy["content"] = "\n".join(map(_part, content))
    elif not isinstance(content, str | None):
        raise BadRequest("content is neither text nor a list of parts", param="messages")
    for call in copy.get("tool_calls") or ():
        _open_arguments(call)
    return copy


def _open_arguments(call: object) -> None:
    """Templates take the arguments of a call as an object, and OpenAI has them as text."""
    match call:
        case {"function": {"arguments": str(text)} as function}:
            function["arguments"] = _object(text)
        case {"function": {"arguments": dict()}}:
            pass
        case _:
            raise BadRequest("a call of a tool has no arguments", param="messages")


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadRequest("the arguments of a call are not a JSON object", param="messages")
    return value


def _part(part: object) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
    raise BadRequest("this model takes text only, and a part is of another type", param="messages")
