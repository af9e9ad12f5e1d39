"""Answers over a WebSocket as they are written: parts, end, cancel, failures, slow readers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from r3mes.config.schema import Limits
from r3mes.errors import EngineError, Overloaded
from r3mes.node.rpc import sessions
from r3mes.node.rpc.methods import infer_stream
from tests.node.conftest import CHAT, KEYS
from tests.node.rpc.conftest import ask, closed

if TYPE_CHECKING:
    from tests.node.conftest import Api
    from tests.node.rpc.conftest import Surface

pytestmark = pytest.mark.net

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def told(socket: Any) -> tuple[str, Any]:
    """The next notification."""
    message = json.loads(await socket.recv())
    assert message.keys() == {"jsonrpc", "method", "params"}
    return message["method"], message["params"]


async def heard(socket: Any, subscription: str) -> tuple[list[Any], Any]:
    """The parts of an answer, and its end."""
    chunks: list[Any] = []
    while True:
        name, params = await told(socket)
        assert params.pop("subscription") == subscription
        if name == "infer_end":
            return chunks, params
        assert name == "infer_chunk"
        chunks.append(params["chunk"])


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


async def test_an_answer_comes_in_parts_with_figures_at_its_end(surface: Surface) -> None:
    async with surface.connect("r3k_both") as socket:
        begun = await ask(socket, "infer_stream", **CHAT, max_tokens=5, request_id="mine")
        chunks, end = await heard(socket, begun["subscription"])
    assert begun["request_id"] == "mine"
    assert text_of(chunks) == "Hello, world"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[-1]["choices"][0]["finish_reason"] == end["finish_reason"] == "stop"
    assert end["usage"] == USAGE
    assert end["r3mes"]["receipt_id"] == "cd" * 32
    assert "error" not in end
    (asked,) = surface.gateway.requests
    assert (asked.max_tokens, asked.key_id, asked.request_id) == (5, "both", "mine")


async def test_the_call_is_answered_before_the_first_part(surface: Surface) -> None:
    call = {"jsonrpc": "2.0", "method": "infer_stream", "params": CHAT}
    async with surface.connect("r3k_both") as socket:
        for _ in range(10):  # what runs first of two tasks is a matter of chance
            await socket.send(json.dumps([{**call, "id": number} for number in range(3)]))
            answers = json.loads(await socket.recv())
            begun = {one["result"]["subscription"] for one in answers}
            ends = [await told(socket) for _ in range(3 * 5)]
            assert begun == {one["subscription"] for name, one in ends if name == "infer_end"}


@pytest.mark.parametrize("failure", [Overloaded("full"), RuntimeError("secret")])
async def test_who_is_not_answered_hears_why(surface: Surface, failure: Exception) -> None:
    surface.gateway.refuse = failure
    async with surface.connect("r3k_both") as socket:
        begun = await ask(socket, "infer_stream", **CHAT)
        chunks, end = await heard(socket, begun["subscription"])
        assert await ask(socket, "infer_cancel", request_id=begun["request_id"])
    assert (chunks, end.keys()) == ([], {"error"})
    known = isinstance(failure, Overloaded)
    assert end["error"]["code"] == (-32012 if known else -32603)
    assert "secret" not in json.dumps(end)
    assert ("incident" in end["error"]["data"]) is not known


async def test_an_answer_that_breaks_off_ends_with_an_error(surface: Surface) -> None:
    surface.gateway.words = ("Hello", EngineError("the worker died"))
    async with surface.connect("r3k_both") as socket:
        begun = await ask(socket, "infer_stream", **CHAT)
        chunks, end = await heard(socket, begun["subscription"])
    assert text_of(chunks) == "Hello"
    assert end["error"]["data"]["code"] == "engine_error"


@pytest.mark.parametrize(
    ("key", "more", "code"),
    [
        ("r3k_read", {}, -32002),
        ("r3k_tiny", {"model": "other"}, -32002),
        ("r3k_both", {"stream": False}, -32602),
        ("r3k_both", {"messages": []}, -32602),
        ("r3k_both", {"n": 9}, -32602),
        ("r3k_both", {"request_id": "no id"}, -32602),
    ],
)
async def test_what_is_wrong_with_the_call_is_its_answer(
    surface: Surface, key: str, more: dict[str, Any], code: int
) -> None:
    async with surface.connect(key) as socket:
        assert (await ask(socket, "infer_stream", **{**CHAT, **more}))["code"] == code
    assert surface.gateway.requests == []


async def test_it_counts_against_the_rate_of_the_key(surface: Surface) -> None:
    surface.rates.limits = Limits(rpm_per_key=2, rpm_per_address=0)
    surface.keyring.keys["r3k_fresh"] = replace(KEYS["r3k_both"], id="streams")
    async with surface.connect("r3k_fresh") as socket:
        begun = await ask(socket, "infer_stream", **CHAT)
        await heard(socket, begun["subscription"])
        assert (await ask(socket, "infer_stream", **CHAT))["code"] == -32013


async def test_plain_http_is_told_to_come_by_websocket(api: Api) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "infer_stream", "params": CHAT}
    async with api.client() as client:
        error = (await client.post("/rpc", json=message)).json()["error"]
    assert error["code"] == -32602
    assert "WebSocket" in error["data"]["do"]
    assert api.gateway.requests == []


async def test_cancelled_by_its_id_it_ends_with_an_error(surface: Surface) -> None:
    surface.gateway.hold = trio.Event()
    async with surface.connect("r3k_both") as socket, surface.connect("r3k_tiny") as other:
        begun = await ask(socket, "infer_stream", **CHAT)
        mine = {"request_id": begun["request_id"]}
        assert (await told(socket))[0] == "infer_chunk"
        assert await ask(other, "infer_cancel", **mine) == {"cancelled": False}
        assert await ask(other, "node_unsubscribe", subscription=begun["subscription"])
        assert await ask(socket, "infer_cancel", **mine) == {"cancelled": True}
        chunks, end = await heard(socket, begun["subscription"])
    assert (chunks, end["error"]["data"]["code"]) == ([], "request_cancelled")
    assert surface.active.all() == []


@pytest.mark.parametrize("way", ["close", "unsubscribe"])
async def test_who_goes_away_or_unsubscribes_cancels(surface: Surface, way: str) -> None:
    surface.gateway.hold = trio.Event()
    async with surface.connect("r3k_both") as socket:
        begun = await ask(socket, "infer_stream", **CHAT)
        await told(socket)
        if way == "unsubscribe":
            await ask(socket, "node_unsubscribe", subscription=begun["subscription"])
            with trio.fail_after(10):
                await surface.gateway.cancelled.wait()
    with trio.fail_after(10):
        await surface.gateway.cancelled.wait()


async def test_many_at_once_and_no_more_than_a_connection_may_have(
    surface: Surface, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SUBSCRIPTIONS", 2)
    surface.gateway.hold = trio.Event()
    async with surface.connect("r3k_both") as socket:
        begun = [await ask(socket, "infer_stream", **CHAT) for _ in range(3)]
        assert begun[2]["code"] == -32012
        surface.gateway.hold.set()
        ended = [
            params for name, params in [await told(socket) for _ in range(8)] if "usage" in params
        ]
        assert {one["subscription"] for one in ended} == {one["subscription"] for one in begun[:2]}
        again = await ask(socket, "infer_stream", **CHAT)
        assert text_of((await heard(socket, again["subscription"]))[0]) == "Hello, world"


async def test_slow_reader_gets_all_of_it_and_the_model_waits(surface: Surface) -> None:
    words = [f"{number:06}" * 20_000 for number in range(100)]
    surface.gateway.words = words
    async with surface.connect("r3k_both") as socket:
        begun = await ask(socket, "infer_stream", **CHAT)
        await trio.testing.wait_all_tasks_blocked(0.1)
        chunks, end = await heard(socket, begun["subscription"])
    assert text_of(chunks) == "".join(words)
    assert end["finish_reason"] == "stop"


async def test_who_never_reads_loses_the_place_at_the_model(
    surface: Surface, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (infer_stream, sessions):
        monkeypatch.setattr(module, "SLOW_S", 0.2)
    surface.gateway.words = ["x" * 100_000] * 1000
    async with surface.connect("r3k_both") as slow:
        await ask(slow, "infer_stream", **CHAT)
        with trio.fail_after(30):
            await surface.gateway.left.wait()  # while nothing is read
            ended = await closed(slow)
    assert surface.active.all() == []
    assert ended.rcvd is not None
    assert ended.rcvd.code == 1013


async def test_node_that_stops_lets_answers_come_to_their_end(surface: Surface) -> None:
    surface.gateway.hold = trio.Event()
    async with surface.connect("r3k_both") as socket:
        begun = await ask(socket, "infer_stream", **CHAT)
        await told(socket)
        surface.stopping.set()
        assert await ask(socket, "infer_cancel", request_id="another") == {"cancelled": False}
        surface.gateway.hold.set()
        chunks, end = await heard(socket, begun["subscription"])
        ended = await closed(socket)
    assert (text_of(chunks), end["finish_reason"]) == ("Hello, world", "stop")
    assert ended.rcvd is not None
    assert ended.rcvd.code == 1001
