"""The body of ``POST /v1/chat/completions``: which fields count, and their bounds.

Every number has a bound, because each costs somebody memory or time.  Fields that would change
the answer in a way that we cannot are refused by name; fields that we do not know are let pass
and listed in ``x-r3mes-ignored``.

Source: OpenAI API reference, "Create chat completion"; audio left out; ``top_k``,
``min_p`` and ``repetition_penalty`` are vLLM's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from r3mes.actors.gateway import ChatRequest
from r3mes.actors.requests.job import (
    MAX_BIAS,
    MAX_BIASED,
    MAX_PENALTY,
    MAX_REPETITION_PENALTY,
    MAX_STOPS,
    MAX_TEMPERATURE,
    STOP_CAP,
)
from r3mes.actors.requests.logprobs import MAX_LIKELIEST
from r3mes.errors import BadRequest
from r3mes.node.http.chat_form import ResponseFormat, StructuredOutputs
from r3mes.node.http.chat_tools import (
    MAX_TOOLS,
    NamedTool,
    Tool,
    ToolCall,
    forced,
    shown_tools,
)
from r3mes.node.http.fields import Encodable, Number, Text, listed

MAX_MESSAGES = 2048
MAX_PARTS = 256
MAX_TOKENS = 1_000_000
MAX_CHOICES = 8
MAX_CALLS = 128

Stop = Annotated[str, StringConstraints(min_length=1, max_length=STOP_CAP), Encodable]
Penalty = Annotated[float, Field(ge=-MAX_PENALTY, le=MAX_PENALTY), Number]
TokenId = Annotated[int, Field(ge=0, lt=2**32)]
Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS), Number]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS), Number]

NEUTRAL: dict[str, tuple[object, ...]] = {
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}
"""Fields that we cannot honour, with the values that ask for nothing."""


class TextPart(BaseModel):
    """One part of a message's content."""

    type: Literal["text"]
    text: Text


def _as_parts(content: object) -> object:
    """A text as its only part: a union of types would put pydantic's inner names into messages."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is None or isinstance(content, list):
        return content
    raise PydanticCustomError("content", "input should be a text or a list of text parts")


def _as_list(stop: object) -> object:
    if isinstance(stop, str):
        return [stop]
    if stop is None or isinstance(stop, list):
        return stop
    raise PydanticCustomError("stop", "input should be a text or a list of texts")


class Message(BaseModel):
    """One message of the chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[
        Annotated[list[TextPart], Field(min_length=1, max_length=MAX_PARTS)] | None,
        BeforeValidator(_as_parts, json_schema_input_type=str | list[TextPart] | None),
    ] = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise PydanticCustomError("content", "a message has no content")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise PydanticCustomError("tool", "role tool and tool_call_id go together")
        if self.tool_calls and self.role != "assistant":
            raise PydanticCustomError("tool", "tool_calls are the assistant's")
        return self

    def plain(self) -> dict[str, object]:
        """As chat templates know it: ``developer`` is OpenAI's new ``system``."""
        role = "system" if self.role == "developer" else self.role
        plain: dict[str, object] = {
            "role": role,
            "content": "".join(part.text for part in self.content or ()),
        }
        if self.tool_calls:
            plain["tool_calls"] = [call.plain() for call in self.tool_calls]
        if self.tool_call_id is not None:
            plain["tool_call_id"] = self.tool_call_id
        return plain


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    include_usage: bool = False


class ChatBody(BaseModel):
    """The request as it comes in."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: Annotated[str, StringConstraints(min_length=1, max_length=256), Encodable]
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE), Number] | None = None
    top_p: Annotated[float, Field(gt=0, le=1), Number] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000), Number] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63), Number] | None = None
    stop: Annotated[
        Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None,
        BeforeValidator(_as_list, json_schema_input_type=str | list[str] | None),
    ] = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), Number] | None = None
    min_p: Annotated[float, Field(ge=0, le=1), Number] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=MAX_REPETITION_PENALTY), Number] | None = (
        None
    )
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=MAX_BIASED)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LIKELIEST), Number] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def requests(self) -> list[ChatRequest]:
        """What the gateway is asked: a request for each choice.

        Each choice is what its seed alone would have given: the first has the one that was asked
        for, the next the one after it.

        Raises:
            BadRequest: a field is set that we cannot honour.
        """
        first = self._request()
        if first.seed is None:
            return [first] * (self.n or 1)
        seeds = [(first.seed + index) % 2**63 for index in range(self.n or 1)]
        return [replace(first, seed=seed) for seed in seeds]

    def _request(self) -> ChatRequest:
        self._refuse_unsupported()
        kind, grammar = self._form()
        tools = [] if self.tool_choice == "none" else self.tools or []
        return ChatRequest(
            model=self.model,
            messages=tuple(message.plain() for message in self.messages),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            seed=self.seed,
            stop=self._stops(),
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            logit_bias=tuple(sorted((self.logit_bias or {}).items())),
            logprobs=self._logprobs(),
            grammar_kind=kind,
            grammar=grammar,
            tools=shown_tools(tools) if tools else b"",
            call=self._call(tools, kind),
        )

    def ignored(self) -> str:
        """The fields that we do not know."""
        return listed(name for name in self.model_extra or {} if name not in NEUTRAL)

    def _refuse_unsupported(self) -> None:
        for name, value in (self.model_extra or {}).items():
            if name in NEUTRAL and value is not None and value not in NEUTRAL[name]:
                raise BadRequest(
                    f"{name} is set, and this node does not support it",
                    do=f"leave {name} out",
                    param=name,
                )

    @property
    def one_call(self) -> bool:
        """Whether an answer may call one tool at most."""
        return self.parallel_tool_calls is False

    def _call(self, tools: Sequence[Tool], kind: str) -> str:
        """The tool that must be called; ``*`` for any, empty if none must."""
        call = forced(self.tool_choice, tools)
        if call and kind:
            raise BadRequest(
                "tool_choice forces a call, and the answer is to have another form",
                do="leave one out",
                param="tool_choice",
            )
        return call

    def _form(self) -> tuple[str, str]:
        """Kind and text of the grammar that the answer follows, both empty if it is free."""
        kind, text = self.response_format.form() if self.response_format else ("", "")
        if self.structured_outputs is None:
            return kind, text
        if kind:
            raise BadRequest(
                "response_format and structured_outputs both say what the answer looks like",
                do="leave one out",
                param="structured_outputs",
            )
        return self.structured_outputs.form()

    def _logprobs(self) -> int:
        """How many for each token, its own among them."""
        if self.logprobs:
            return 1 + (self.top_logprobs or 0)
        if self.top_logprobs:
            raise BadRequest("top_logprobs needs logprobs", do="set it", param="top_logprobs")
        return 0

    def _stops(self) -> tuple[str, ...]:
        stops = tuple(self.stop or ())
        if any(len(stop.encode()) > STOP_CAP for stop in stops):
            raise BadRequest(f"a stop string is longer than {STOP_CAP} bytes", param="stop")
        return stops
