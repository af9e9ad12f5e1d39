"""What applications do, with the real `openai` SDK, at a node that has to ask another one."""

import json
import re
from typing import Any, Literal

import openai
import pydantic
import pytest
import trio

from benchmarks.daemons import Daemon, wait

QUESTION: Any = [{"role": "user", "content": "What is a receipt?"}]
pytestmark = pytest.mark.slow


def test_a_whole_answer(gateway: Daemon, server: Daemon) -> None:
    done = gateway.openai().chat.completions.create(
        model="builtin", messages=QUESTION, temperature=0
    )
    assert "receipt" in done.choices[0].message.content.lower()
    assert done.choices[0].finish_reason == "stop"
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    more = done.model_extra["r3mes"]
    assert (more["route"], more["peer_id"]) == ("peer", server.running.peer_id)
    assert more["cost_uremes"] > 0


def test_a_streamed_answer_is_the_same_text(gateway: Daemon) -> None:
    client = gateway.openai()
    whole = client.chat.completions.create(model="builtin", messages=QUESTION, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="builtin",
            messages=QUESTION,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def test_a_seed_makes_the_answer_repeatable(gateway: Daemon) -> None:
    def ask(seed: int) -> str:
        done = gateway.openai().chat.completions.create(
            model="endless", messages=QUESTION, temperature=1.5, seed=seed, max_tokens=24
        )
        assert done.choices[0].finish_reason == "length"
        assert done.usage.completion_tokens == 24
        return str(done.choices[0].message.content)

    assert ask(5) == ask(5) != ask(6)


# The SDK leaves its generators behind the last event unfinished; trio says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_the_async_client_on_trio(gateway: Daemon) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key) as client:
        whole = await client.chat.completions.create(
            model="builtin", messages=QUESTION, temperature=0
        )
        stream = await client.chat.completions.create(
            model="builtin", messages=QUESTION, temperature=0, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content


def test_models_are_listed_with_who_serves_them(gateway: Daemon, server: Daemon) -> None:
    listed = {model.id: model for model in gateway.openai().models.list()}
    assert set(listed) == {"builtin", "endless", "builtin:turned"}
    assert listed["builtin"].owned_by == server.running.peer_id
    assert gateway.openai().models.retrieve("builtin").id == "builtin"


def test_a_wrong_key(gateway: Daemon) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="r3k_nonsense")
    with pytest.raises(openai.AuthenticationError) as refused:
        client.models.list()
    assert refused.value.code == "invalid_api_key"


def test_an_unknown_model(gateway: Daemon) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        gateway.openai().chat.completions.create(model="gpt-9", messages=QUESTION)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("more", [{}, {"max_tokens": 900}, {"max_tokens": 5000}])
def test_a_prompt_that_does_not_fit_is_refused_and_never_cut(
    gateway: Daemon, more: dict[str, int]
) -> None:
    words = 3000 if not more else 300
    long = [{"role": "user", "content": "node " * words}]
    with pytest.raises(openai.BadRequestError) as refused:
        gateway.openai().chat.completions.create(model="builtin", messages=long, **more)
    assert refused.value.code == "context_length_exceeded"
    assert "1024" in refused.value.message


def test_hanging_up_frees_the_slot_of_the_other_node(gateway: Daemon, server: Daemon) -> None:
    stream = gateway.openai().chat.completions.create(
        model="endless", messages=QUESTION, stream=True
    )
    next(chunk for chunk in stream if chunk.choices[0].delta.content)
    stream.close()

    def idle() -> bool | None:
        return server.get("/node/status").json()["load"]["running"] == 0 or None

    wait(idle, "an idle server")
    again = gateway.openai().chat.completions.create(
        model="endless", messages=QUESTION, max_tokens=4
    )
    assert again.usage.completion_tokens == 4


async def test_several_at_once_are_all_answered(gateway: Daemon) -> None:
    answers = []

    async def ask(client: openai.AsyncOpenAI) -> None:
        done = await client.chat.completions.create(
            model="builtin", messages=QUESTION, temperature=0
        )
        answers.append(done.choices[0].message.content)

    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(ask, client)
    assert len(answers) == 6
    assert len(set(answers)) == 1


def test_log_probabilities(gateway: Daemon) -> None:
    def ask(**more: Any) -> Any:
        return gateway.openai().chat.completions.create(
            model="builtin",
            messages=QUESTION,
            temperature=0,
            logprobs=True,
            top_logprobs=3,
            **more,
        )

    (choice,) = ask().choices
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    assert all(len(token.top_logprobs) == 3 for token in tokens)
    assert all(token.top_logprobs[0].token == token.token for token in tokens)  # greedy
    assert all(token.logprob == token.top_logprobs[0].logprob <= 0 for token in tokens)
    chunks = [chunk.choices[0] for chunk in ask(stream=True)]
    streamed = [token for one in chunks if one.logprobs for token in one.logprobs.content]
    assert streamed == tokens


def test_several_choices_are_those_of_their_seeds(gateway: Daemon) -> None:
    def ask(**more: Any) -> Any:
        return gateway.openai().chat.completions.create(
            model="endless", messages=QUESTION, temperature=2, max_tokens=12, **more
        )

    several = ask(seed=5, n=3)
    texts = [choice.message.content for choice in several.choices]
    assert len(set(texts)) > 1
    assert ask(seed=7).choices[0].message.content == texts[2]
    assert several.usage.completion_tokens == 36
    receipts = {one["receipt_id"] for one in several.model_extra["r3mes"]["choices"]}
    assert len(receipts) == 3
    streamed = ["", "", ""]
    for chunk in ask(seed=5, n=3, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_penalties_and_biases_change_the_answer(gateway: Daemon) -> None:
    def ask(**more: Any) -> str:
        done = gateway.openai().chat.completions.create(
            model="endless", messages=QUESTION, temperature=0, max_tokens=80, **more
        )
        return str(done.choices[0].message.content)

    plain = ask()
    assert ask(presence_penalty=0, extra_body={"min_p": 0.5, "repetition_penalty": 1}) == plain
    for more in (
        {"frequency_penalty": 2.0},
        {"logit_bias": {"300": 100}},
        {"extra_body": {"repetition_penalty": 5}},
    ):
        assert ask(**more) != plain


def test_stop_strings(gateway: Daemon) -> None:
    def ask(**more: Any) -> Any:
        return gateway.openai().chat.completions.create(
            model="builtin", messages=QUESTION, temperature=0, **more
        )

    whole = ask().choices[0].message.content
    word = whole.split()[3]
    (cut,) = ask(stop=["nothing of this", word]).choices
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(word)], "stop")
    with pytest.raises(openai.BadRequestError) as refused:
        ask(stop=["a"] * 5)
    assert refused.value.param == "stop"


class Pet(pydantic.BaseModel):
    """What an application wants to know."""

    model_config = pydantic.ConfigDict(extra="forbid")

    kind: Literal["cat", "dog"]
    legs: Literal[3, 4]


def test_an_answer_by_a_json_schema(gateway: Daemon) -> None:
    parsed = gateway.openai().chat.completions.parse(
        model="endless", messages=QUESTION, response_format=Pet, max_tokens=60
    )
    assert isinstance(parsed.choices[0].message.parsed, Pet)
    assert parsed.choices[0].finish_reason == "stop"


def test_an_answer_by_a_regular_expression(gateway: Daemon) -> None:
    def ask(form: Any) -> str:
        done = gateway.openai().chat.completions.create(
            model="endless",
            messages=QUESTION,
            max_tokens=60,
            extra_body={"structured_outputs": form},
        )
        return str(done.choices[0].message.content)

    assert re.fullmatch("[a-f]{4}-[0-9]{2}", ask({"regex": "[a-f]{4}-[0-9]{2}"}))
    assert ask({"choice": ["red", "green"]}) in ("red", "green")
    with pytest.raises(openai.BadRequestError, match="cannot be followed"):
        ask({"regex": "(a"})


TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Bern", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]


def test_tools(gateway: Daemon) -> None:
    def ask(messages: Any, **more: Any) -> Any:
        return gateway.openai().chat.completions.create(
            model="endless", messages=messages, tools=TOOLS, max_tokens=60, **more
        )

    first = ask(QUESTION, tool_choice="required", temperature=0)
    (choice,) = first.choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, call.function.name) == ("tool_calls", "weather")
    assert json.loads(call.function.arguments)["city"] in ("Bern", "Rome")
    named = {"type": "function", "function": {"name": "weather"}}
    parts = [
        chunk.choices[0] for chunk in ask(QUESTION, tool_choice=named, temperature=0, stream=True)
    ]
    (streamed,) = [one for part in parts for one in part.delta.tool_calls or ()]
    assert streamed.function.arguments == call.function.arguments
    assert parts[-1].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "12 degrees"}
    again = ask([*QUESTION, choice.message, result])
    assert again.usage.prompt_tokens > first.usage.prompt_tokens
    with pytest.raises(openai.BadRequestError, match="no place for tools"):
        gateway.openai().chat.completions.create(model="builtin", messages=QUESTION, tools=TOOLS)
