"""Bodies that are refused, bodies that are understood, and what a stream looks like on the wire."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from r3mes.actors.gateway import ChatRequest
from r3mes.errors import NoPeer, NotReady
from r3mes.node.http import chat_answer

if TYPE_CHECKING:
    from tests.node.conftest import Api, Body

pytestmark = pytest.mark.net


async def post(api: Api, body: object, **headers: str) -> httpx.Response:
    async with api.client() as client:
        if isinstance(body, bytes):
            headers["content-type"] = "application/json"
            return await client.post("/v1/chat/completions", content=body, headers=headers)
        return await client.post("/v1/chat/completions", json=body, headers=headers)


TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "ä",
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
        "strict": True,
    },
}
CALL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}

WRONG = [
    ("model", {"model": ""}),
    ("model", {"model": 5}),
    ("model", {"model": "x" * 257}),
    ("messages", {"messages": []}),
    ("messages", {"messages": "Hi"}),
    ("messages", {"messages": [{"role": "robot", "content": "Hi"}]}),
    ("messages", {"messages": [{"role": "tool", "content": "Hi"}]}),
    ("messages", {"messages": [{"role": "user", "content": "Hi", "tool_call_id": "1"}]}),
    ("messages", {"messages": [{"role": "user", "content": None}]}),
    ("messages", {"messages": [{"role": "user", "content": []}]}),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    ("messages", {"messages": [{"role": "user", "content": "x"}] * 2049}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": 10**9}),
    ("max_tokens", {"max_tokens": "many"}),
    ("max_completion_tokens", {"max_completion_tokens": -1}),
    ("temperature", {"temperature": 2.1}),
    ("temperature", {"temperature": True}),
    ("max_tokens", {"max_tokens": True}),
    ("seed", {"seed": False}),
    ("top_p", {"top_p": True}),
    ("top_k", {"top_k": False}),
    ("temperature", {"temperature": -0.1}),
    ("top_p", {"top_p": 0}),
    ("top_p", {"top_p": 1.5}),
    ("top_k", {"top_k": -1}),
    ("seed", {"seed": 2**63}),
    ("seed", {"seed": -1}),
    ("stop", {"stop": ["a", "b", "c", "d", "e"]}),
    ("stop", {"stop": "x" * 65}),
    ("stop", {"stop": "é" * 33}),
    ("stop", {"stop": ""}),
    ("stop", {"stop": 5}),
    ("stream", {"stream": "perhaps"}),
    ("n", {"n": 0}),
    ("n", {"n": 9}),
    ("n", {"n": True}),
    ("logit_bias", {"logit_bias": {"50256": -101}}),
    ("logit_bias", {"logit_bias": {"-1": 1}}),
    ("logit_bias", {"logit_bias": {"the": 1}}),
    ("logit_bias", {"logit_bias": {str(token): 1 for token in range(1025)}}),
    ("logprobs", {"logprobs": 5}),
    ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
    ("top_logprobs", {"logprobs": True, "top_logprobs": -1}),
    ("top_logprobs", {"logprobs": True, "top_logprobs": True}),
    ("top_logprobs", {"top_logprobs": 2}),
    ("min_p", {"min_p": 1.1}),
    ("min_p", {"min_p": True}),
    ("presence_penalty", {"presence_penalty": 2.1}),
    ("frequency_penalty", {"frequency_penalty": -1e308}),
    ("repetition_penalty", {"repetition_penalty": 0}),
    ("repetition_penalty", {"repetition_penalty": 11}),
    ("stop", {"stop": ["x"] * 5000}),
    ("tools", {"tools": [{"type": "web_search"}]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "no name"}}]}),
    ("tools", {"tools": [TOOL] * 129}),
    ("tools", {"tools": [TOOL, TOOL]}),
    ("tools", {"tools": "f"}),
    ("tool_choice", {"tools": [TOOL], "tool_choice": "sometimes"}),
    ("tool_choice", {"tools": [TOOL], "tool_choice": CALL | {"function": {"name": "g"}}}),
    ("tool_choice", {"tool_choice": "required"}),
    (
        "tool_choice",
        {"tools": [TOOL], "tool_choice": CALL, "response_format": {"type": "json_object"}},
    ),
    (
        "messages",
        {
            "messages": [
                {
                    "role": "user",
                    "content": "x",
                    "tool_calls": [
                        {
                            "id": "1",
                            "type": "function",
                            "function": {"name": "f", "arguments": "{}"},
                        }
                    ],
                }
            ]
        },
    ),
    (
        "messages",
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}
                    ],
                }
            ]
        },
    ),
    ("messages", {"messages": [{"role": "assistant"}]}),
    ("response_format", {"response_format": {"type": "xml"}}),
    ("response_format", {"response_format": "json_object"}),
    ("response_format", {"response_format": {"type": "json_schema"}}),
    (
        "response_format",
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "no name", "schema": {}},
            }
        },
    ),
    ("structured_outputs", {"structured_outputs": {}}),
    ("structured_outputs", {"structured_outputs": {"regex": 5}}),
    ("structured_outputs", {"structured_outputs": {"regex": "a", "choice": ["a"]}}),
    ("structured_outputs", {"structured_outputs": {"choice": []}}),
    ("structured_outputs", {"structured_outputs": {"json": 5}}),
    ("structured_outputs", {"structured_outputs": {"structural_tag": {}}}),
    (
        "structured_outputs",
        {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
    ),
]


@pytest.mark.parametrize(("param", "change"), WRONG)
async def test_wrong_field_is_named(api: Api, chat: Body, param: str, change: Body) -> None:
    answer = await post(api, {**chat, **change})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert not re.search("function-|validat|value error|object at 0x", error["message"]), error
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith("R3-REQ-001: ")
    assert answer.headers["x-should-retry"] == "false"
    assert api.gateway.requests == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"model": "org/tiny", "messages": [{"role": "user", "content": "\xff"}]}',
        b'{"model": "org/tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "org/tiny", "messages": [{"role": "assistant", "tool_calls": [{"id": "1", '
        b'"function": {"name": "f", "arguments": "\\ud800"}}]}]}',
        b'{"model": "org/tiny", "temperature": NaN, "messages": [{"role":"user","content":"x"}]}',
        b'{"a":' * 6000 + b"1" + b"}" * 6000,
        b"[" * 60000,
    ],
    ids=[
        "empty",
        "cut",
        "null",
        "list",
        "not utf-8",
        "surrogate",
        "surrogate in a call",
        "nan",
        "deep",
        "deeper",
    ],
)
async def test_malformed_body(api: Api, body: Any) -> None:
    answer = await post(api, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "invalid_request"
    assert api.gateway.requests == []


async def test_not_json_by_its_type(api: Api, chat: Body) -> None:
    async with api.client() as client:
        answer = await client.post("/v1/chat/completions", data={"model": "org/tiny"})
    assert answer.status_code == 400
    assert "'Content-Type: application/json'" in answer.json()["error"]["message"]


async def test_json_that_is_no_object(api: Api) -> None:
    answer = await post(api, b"[]")
    assert "not an object" in answer.json()["error"]["message"]


async def test_everything_that_counts_reaches_the_gateway(api: Api, chat: Body) -> None:
    await post(
        api,
        {
            **chat,
            "messages": [
                {"role": "developer", "content": "Be short."},
                {"role": "user", "name": "al", "content": [
                    {"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]},
            ],
            "max_tokens": 5, "max_completion_tokens": 7, "temperature": 0, "top_p": 0.5,
            "top_k": 40, "seed": 0, "stop": "END", "min_p": 0.1, "presence_penalty": 0.5,
            "frequency_penalty": -2, "repetition_penalty": 1.5, "logit_bias": {"17": -100, "3": 1},
            "logprobs": True, "top_logprobs": 20,
        },
    )  # fmt: skip
    (request,) = api.gateway.requests
    assert list(request.messages) == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi there"},
    ]
    assert request.max_tokens == 7
    assert (request.temperature, request.top_p, request.top_k) == (0, 0.5, 40)
    assert (request.seed, request.stop) == (0, ("END",))
    penalties = request.presence_penalty, request.frequency_penalty, request.repetition_penalty
    assert (request.min_p, *penalties) == (0.1, 0.5, -2, 1.5)
    assert request.logit_bias == ((3, 1.0), (17, -100.0))
    assert request.logprobs == 21


async def test_defaults(api: Api, chat: Body) -> None:
    await post(api, {**chat, "stop": None, "temperature": None, "n": 1, "tools": []})
    (request,) = api.gateway.requests
    assert (request.max_tokens, request.temperature, request.top_p) == (None, 1.0, 1.0)
    assert (request.seed, request.stop) == (None, ())


@pytest.mark.parametrize(
    ("choice", "call"),
    [(None, ""), ("auto", ""), ("required", "*"), (CALL, "f")],
)
async def test_tools_reach_the_gateway(api: Api, chat: Body, choice: object, call: str) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [{
            "id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]  # fmt: skip
    await post(api, {**chat, "messages": messages, "tools": [TOOL], "tool_choice": choice})
    (request,) = api.gateway.requests
    shown = {key: value for key, value in TOOL["function"].items() if key != "strict"}
    assert json.loads(request.tools) == [{"type": "function", "function": shown}]
    assert request.call == call
    assert list(request.messages) == [
        {"role": "user", "content": "Hi"},
        {**messages[1], "content": ""},
        messages[2],
    ]


async def test_tools_that_must_not_be_called_are_not_shown(api: Api, chat: Body) -> None:
    await post(api, {**chat, "tools": [TOOL], "tool_choice": "none"})
    assert api.gateway.requests[0].tools == b""


CALLS = (
    "Let me see. <tool",
    '_call>\n{"name": "f", "arg',
    'uments": {"a": "ä"}}\n</tool_call>\n<tool_call>{"name": "f", "arguments": {}}</tool_call>',
)


@pytest.mark.parametrize("parallel", [True, False])
async def test_a_call_is_told_as_one(api: Api, chat: Body, parallel: bool) -> None:
    api.gateway.words = CALLS
    body = {**chat, "tools": [TOOL], "parallel_tool_calls": parallel}
    (choice,) = (await post(api, body)).json()["choices"]
    message = choice["message"]
    assert (message["content"], choice["finish_reason"]) == ("Let me see.", "tool_calls")
    made = [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]]
    assert made == [{"a": "ä"}, {}][: 2 if parallel else 1]
    assert len({call["id"] for call in message["tool_calls"]}) == len(made)


async def test_calls_are_streamed(api: Api, chat: Body) -> None:
    api.gateway.words = CALLS
    answer = await post(api, {**chat, "tools": [TOOL], "stream": True, "logprobs": True})
    chunks = [json.loads(event[6:]) for event in answer.text.split("\n\n")[1:-2]]
    choices = [chunk["choices"][0] for chunk in chunks]
    calls = [call for one in choices for call in one["delta"].get("tool_calls", ())]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "f"), (1, "f")]
    assert "".join(one["delta"].get("content", "") for one in choices) == "Let me see."
    assert choices[-1]["finish_reason"] == "tool_calls"
    told = [one["token"] for part in choices if part["logprobs"] for one in
            part["logprobs"]["content"]]  # fmt: skip
    assert "".join(told) == "".join(CALLS)


async def test_a_message_of_calls_alone_has_no_content(api: Api, chat: Body) -> None:
    api.gateway.words = ('<tool_call>{"name": "f", "arguments": {}}</tool_call>',)
    (choice,) = (await post(api, {**chat, "tools": [TOOL]})).json()["choices"]
    assert choice["message"]["content"] is None


SCHEMA = {"type": "object", "properties": {"a": {"const": "ä\ud83d"}}}
FORMS = [
    ({"response_format": {"type": "text"}}, "", ""),
    ({"response_format": {"type": "json_object"}}, "json_object", ""),
    (
        {"response_format": {"type": "json_schema", "json_schema": {
            "name": "a", "strict": True, "schema": SCHEMA}}},
        "json_schema",
        json.dumps(SCHEMA),
    ),
    ({"structured_outputs": {"json": SCHEMA}}, "json_schema", json.dumps(SCHEMA)),
    ({"structured_outputs": {"json": "{}"}}, "json_schema", "{}"),
    ({"structured_outputs": {"json_object": True}}, "json_object", ""),
    ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
    ({"structured_outputs": {"choice": ["a", "b"]}}, "choice", '["a", "b"]'),
    ({"structured_outputs": {"grammar": "start: x"}}, "grammar", "start: x"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "kind", "grammar"), FORMS, ids=str)
async def test_the_form_of_an_answer(
    api: Api, chat: Body, asked: Body, kind: str, grammar: str
) -> None:
    answer = await post(api, json.dumps({**chat, **asked}).encode())
    assert answer.status_code == 200, answer.text
    (request,) = api.gateway.requests
    assert (request.grammar_kind, request.grammar) == (kind, grammar)


async def test_choices_have_seeds_that_follow_one_another(api: Api, chat: Body) -> None:
    for seed, seeds in ((5, [5, 6, 7]), (2**63 - 1, [2**63 - 1, 0, 1]), (None, [None] * 3)):
        api.gateway.requests.clear()
        whole = (await post(api, {**chat, "n": 3, "seed": seed})).json()
        assert sorted(str(one.seed) for one in api.gateway.requests) == sorted(map(str, seeds))
        assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
        assert whole["usage"] == {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
        assert whole["r3mes"]["cost_uremes"] == 21
        assert [one["cost_uremes"] for one in whole["r3mes"]["choices"]] == [7] * 3


async def test_choices_are_streamed_side_by_side(api: Api, chat: Body) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer = await post(api, {**chat, **options, "n": 2})
    chunks = [json.loads(event[6:]) for event in answer.text.split("\n\n")[1:-2]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    texts = ["", ""]
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == ["Hello, world"] * 2
    assert chunks[-1]["usage"]["completion_tokens"] == 4
    assert len(chunks[-1]["r3mes"]["choices"]) == 2


async def test_one_choice_that_fails_ends_the_others(api: Api, chat: Body) -> None:
    api.gateway.words = ("Hello", NoPeer("all are gone"))
    answer = await post(api, {**chat, "n": 3})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_peer")


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_are_told_with_the_bytes_of_tokens(
    api: Api, chat: Body, stream: bool
) -> None:
    answer = await post(api, {**chat, "logprobs": True, "top_logprobs": 2, "stream": stream})
    if stream:
        chunks = [json.loads(event[6:]) for event in answer.text.split("\n\n")[1:-2]]
        parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
        content = [one for part in parts if part for one in part["content"]]
    else:
        content = answer.json()["choices"][0]["logprobs"]["content"]
    assert [one["token"] for one in content] == ["Hello", ", world"]
    assert content[0]["logprob"] == -0.5
    assert [other["bytes"] for other in content[0]["top_logprobs"]] == [
        list(b"Hello"),
        list(b"\xf0x"),
    ]
    assert content[0]["top_logprobs"][1]["token"] == "\ufffdx"  # noqa: S105


async def test_no_logprobs_unless_asked_for(api: Api, chat: Body) -> None:
    assert (await post(api, chat)).json()["choices"][0]["logprobs"] is None


async def test_unknown_fields_are_listed(api: Api, chat: Body) -> None:
    answer = await post(api, {**chat, "user": "al", "bré\r\nX-Evil: 1": 1})
    assert answer.status_code == 200
    assert answer.headers["x-r3mes-ignored"] == "?,user"
    assert "x-evil" not in answer.headers


async def test_headers_tell_who_answers(api: Api, chat: Body) -> None:
    for body in (chat, {**chat, "stream": True}):
        answer = await post(api, body)
        assert answer.headers["x-r3mes-route"] == "peer"
        assert answer.headers["x-r3mes-peer"] == "12D3KooWtest"


async def test_stream_on_the_wire(api: Api, chat: Body) -> None:
    answer = await post(api, {**chat, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[0] == ": keep-alive"
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[1:-2]]
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hello"},
        {"content": ", world"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "stop"]
    assert "usage" not in chunks[-1]


async def test_silence_before_the_first_token_is_filled(
    api: Api, chat: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_answer, "KEEP_ALIVE_S", 0.05)
    api.gateway.wait = 0.3
    answer = await post(api, {**chat, "stream": True})
    before, _, after = answer.text.partition("Hello")
    assert before.count(": keep-alive") >= 3
    assert "[DONE]" in after


async def test_a_long_wait_for_a_slot_keeps_the_stream_alive(
    api: Api, chat: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_answer, "KEEP_ALIVE_S", 0.05)
    api.gateway.wait_to_open = 0.3
    api.gateway.refuse = NoPeer("2 peers serve it, none answered")
    answer = await post(api, {**chat, "stream": True})
    assert answer.status_code == 200
    assert answer.text.count(": keep-alive") >= 3
    error = json.loads(answer.text.rstrip().split("data: ")[-1])["error"]
    assert error["code"] == "no_peer"


async def test_early_refusal_has_a_status(api: Api, chat: Body) -> None:
    api.gateway.refuse = NotReady("it drains", retry_after_s=1.5)
    for body in (chat, {**chat, "stream": True}):
        answer = await post(api, body)
        assert answer.status_code == 503
        assert answer.headers["retry-after-ms"] == "1500"
        assert answer.headers["retry-after"] == "2"
        assert answer.headers["x-should-retry"] == "true"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_unforeseen_has_an_incident_id(
    api: Api, chat: Body, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    api.gateway.words = ("Hel", ZeroDivisionError("secret detail"))
    with caplog.at_level(logging.ERROR):
        answer = await post(api, {**chat, "stream": stream})
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    text = answer.text.split("data: ")[-1] if stream else answer.text
    message = json.loads(text)["error"]["message"]
    incident = message.partition("(incident ")[2][:12]
    assert len(incident) == 12
    assert incident in caplog.text
    assert "ZeroDivisionError" in caplog.text
    if not stream:
        assert answer.status_code == 500


async def test_unknown_path_and_method(api: Api) -> None:
    async with api.client() as client:
        for answer in (await client.get("/v2/models"), await client.delete("/v1/models")):
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "not_found"


async def test_readiness(api: Api) -> None:
    async with api.client(key=None) as client:
        assert (await client.get("/readyz")).json() == {"ready": True, "reasons": []}
        api.state.reasons = ["the model is being loaded"]
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["reasons"]) == (
            503,
            ["the model is being loaded"],
        )
        assert (await client.get("/healthz")).status_code == 200


async def test_many_at_once(api: Api, chat: Body) -> None:
    api.gateway.wait = 0.05
    statuses = []

    async def one() -> None:
        statuses.append((await post(api, {**chat, "stream": True})).text.count("[DONE]"))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
    assert statuses == [1] * 10


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_router_chose_is_told(api: Api, chat: dict[str, Any], stream: bool) -> None:
    async with api.client("r3k_tiny") as client:
        answer = await client.post(
            "/v1/chat/completions", json=chat | {"model": "auto", "stream": stream}
        )
    assert answer.headers["x-r3mes-auto-route"] == "chat"
    assert answer.headers["x-r3mes-auto-abstained"] == "false"
    assert "x-r3mes-auto-why" not in answer.headers
    last = answer.text.split("data: ")[-2] if stream else answer.text
    assert json.loads(last)["r3mes"]["auto"]["score"] == 0.5
    assert [request.model for request in api.gateway.requests] == ["org/tiny"]


async def test_the_router_opens_no_model_that_the_key_may_not_ask(
    api: Api, chat: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def choose(request: ChatRequest) -> ChatRequest:
        return replace(request, model="other")

    monkeypatch.setattr(api.gateway, "choose", choose)
    async with api.client("r3k_tiny") as client:
        answer = await client.post("/v1/chat/completions", json=chat | {"model": "auto"})
    assert answer.status_code == 403
    assert "other" not in answer.text  # the key may not see it either
    assert api.gateway.requests == []
