"""What choices hold at their end: all of it for whole answers, nothing for streams."""

from __future__ import annotations

from r3mes.actors.gateway import ChatRequest
from r3mes.node.http.chat_choices import Choice, Delta, write_choices
from tests.node.conftest import SmallGateway

ASKED = ChatRequest("org/tiny", [{"role": "user", "content": "Hi"}], logprobs=1, tools=b"[]")
WORDS = ("Look: ", '<tool_call>{"name": "f", "arguments": {}}</tool_call>')


class Heard:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.text, self.calls, self.logprobs = "", 0, 0

    async def began(self, choice: Choice) -> None: ...

    async def wrote(self, choice: Choice, delta: Delta) -> None:
        self.text += delta.text
        self.calls += len(delta.calls)
        self.logprobs += len(delta.logprobs)

    async def ended(self, choice: Choice, rest: Delta) -> None:
        assert not rest.text
        assert not rest.calls
        self.logprobs += len(rest.logprobs)


async def test_a_whole_answer_is_kept() -> None:
    (choice,) = await write_choices([SmallGateway(WORDS).complete(ASKED)])
    assert choice.text.strip() == "Look:"
    assert [call.name for call in choice.calls] == ["f"]
    assert len(choice.logprobs) == 2
    assert choice.finish_reason == "tool_calls"


async def test_what_was_streamed_is_not_kept() -> None:
    heard = Heard()
    (choice,) = await write_choices([SmallGateway(WORDS).complete(ASKED)], heard)
    assert (heard.text.strip(), heard.calls, heard.logprobs) == ("Look:", 1, 2)
    assert (choice.text, choice.calls, choice.logprobs) == ("", [], [])
    assert choice.finish_reason == "tool_calls"
