"""Tools and calls of them, as requests carry them.

Source: OpenAI API reference, "Function calling"; tools of other types than ``function`` and
``allowed_tools`` left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from r3mes.actors.requests.job import ANY_CALL, TOOLS_CAP
from r3mes.errors import BadRequest
from r3mes.node.http.fields import Name, Text

MAX_TOOLS = 128


class Function(BaseModel):
    """A function that the model may call; ``parameters`` is a JSON schema."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def plain(self) -> dict[str, object]:
        """As chat templates know it."""
        parameters = self.parameters or {"type": "object", "properties": {}}
        told = {"description": self.description} if self.description is not None else {}
        return {"name": self.name, **told, "parameters": parameters}


class Tool(BaseModel):
    """A tool; there are only functions."""

    type: Literal["function"]
    function: Function


class Named(BaseModel):
    """A function by its name."""

    name: Name


class NamedTool(BaseModel):
    """The tool that must be called."""

    type: Literal["function"]
    function: Named


class CalledFunction(BaseModel):
    """What a model called; ``arguments`` is JSON text."""

    name: Name
    arguments: Text


class ToolCall(BaseModel):
    """A call in an assistant's message."""

    id: Annotated[str, Field(min_length=1, max_length=128)]
    type: Literal["function"] = "function"
    function: CalledFunction

    def plain(self) -> dict[str, object]:
        """As it came."""
        return self.model_dump()


def shown_tools(tools: Sequence[Tool]) -> bytes:
    """The tools as the model is shown them, in JSON.

    Raises:
        BadRequest: two of one name, too large together, or not text.
    """
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        raise BadRequest("two tools have the same name", param="tools")
    plain = [{"type": "function", "function": tool.function.plain()} for tool in tools]
    try:
        shown = json.dumps(plain, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRequest("tools: half of a surrogate pair is no character", param="tools") from None
    if len(shown) > TOOLS_CAP:
        raise BadRequest(f"tools: {len(shown)} bytes, {TOOLS_CAP} are the limit", param="tools")
    return shown


def forced(choice: str | NamedTool | None, tools: Sequence[Tool]) -> str:
    """The name of the tool that must be called; ``*`` for any, empty if none must.

    Raises:
        BadRequest: it is not among the tools.
    """
    if choice == "required":
        name = ANY_CALL
    elif isinstance(choice, NamedTool):
        name = choice.function.name
    else:
        return ""
    if not tools or (name != ANY_CALL and name not in [tool.function.name for tool in tools]):
        raise BadRequest("tool_choice wants a tool that is not given", param="tool_choice")
    return name
