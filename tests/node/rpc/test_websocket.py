"""Events over a WebSocket: subscriptions, cursors, slow readers, keys that end."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import pytest
import trio
import trio.testing
from websockets.exceptions import InvalidStatus
from wsproto import WSConnection
from wsproto.connection import ConnectionType
from wsproto.events import Request, TextMessage

from r3mes.config.schema import Limits
from r3mes.node.events import Events
from r3mes.node.rpc import sessions
from r3mes.node.rpc.context import Context
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.methods.node_events import NodeEvents
from tests.node.conftest import KEYS
from tests.node.rpc.conftest import ask, closed, event

if TYPE_CHECKING:
    from tests.node.rpc.conftest import Surface

pytestmark = pytest.mark.net


async def test_calls_and_batches_are_answered_as_over_http(surface: Surface) -> None:
    async with surface.connect() as socket:
        assert (await ask(socket, "node_info"))["peer_id"] == "12D3KooWtest"
        call = {"jsonrpc": "2.0", "id": 5, "method": "node_info"}
        await socket.send(json.dumps([call, call]).encode())
        assert [one["id"] for one in json.loads(await socket.recv())] == [5, 5]
        await socket.send("{")
        assert json.loads(await socket.recv())["error"]["code"] == -32700


async def test_events_come_in_order_with_cursors_that_replay(surface: Surface) -> None:
    events = surface.events
    async with surface.connect() as socket:
        told = await ask(socket, "node_subscribe", topics=["status", "requests"])
        events.publish("status", {"ready": True})
        events.publish("peers", {"peer_id": "unwanted"})
        events.publish("requests", {"model": "tiny"})
        first, second = await event(socket), await event(socket)
    assert first == {
        "subscription": told["subscription"],
        "cursor": first["cursor"],
        "at_ms": 7,
        "topic": "status",
        "data": {"ready": True},
    }
    assert second["data"] == {"model": "tiny"}
    events.publish("requests", {"model": "while away"})
    async with surface.connect() as socket:
        await ask(socket, "node_subscribe", topics=["requests"], since=first["cursor"])
        assert [(await event(socket))["data"]["model"] for _ in range(2)] == ["tiny", "while away"]


@pytest.mark.parametrize("since", ["overrun", "other boot"])
async def test_what_is_not_kept_any_more_is_told_as_missed(surface: Surface, since: str) -> None:
    for number in range(60):
        surface.events.publish("requests", number)
    cursor = surface.events.cursor(3) if since == "overrun" else "ffffffff.3"
    async with surface.connect() as socket:
        await ask(socket, "node_subscribe", topics=["requests", "status"], since=cursor)
        assert (await event(socket))["topic"] == "missed"
        assert (await event(socket))["data"] == 10


@pytest.mark.parametrize("since", ["", "x", "1.x", f"{'a' * 65}", "now"])
async def test_nonsense_is_no_cursor(surface: Surface, since: str) -> None:
    async with surface.connect() as socket:
        told = await ask(socket, "node_subscribe", topics=["status"], since=since)
        assert told["code"] == -32602
        ahead = surface.events.cursor(99)
        told = await ask(socket, "node_subscribe", topics=["status"], since=ahead)
        assert told["code"] == -32602


async def test_unsubscribed_is_silent_and_twice_is_an_error(surface: Surface) -> None:
    async with surface.connect() as socket:
        told = await ask(socket, "node_subscribe", topics=["status"])
        subscription = told["subscription"]
        assert await ask(socket, "node_unsubscribe", subscription=subscription) is None
        surface.events.publish("status", {})
        again = await ask(socket, "node_unsubscribe", subscription=subscription)
        assert again["code"] == -32016


async def test_subscriptions_of_a_connection_are_bounded(surface: Surface) -> None:
    async with surface.connect() as socket:
        for _ in range(sessions.MAX_SUBSCRIPTIONS):
            assert "cursor" in await ask(socket, "node_subscribe", topics=["status"])
        assert (await ask(socket, "node_subscribe", topics=["status"]))["code"] == -32012


async def test_logs_need_the_scope_of_operators(surface: Surface) -> None:
    async with surface.connect() as socket:
        assert (await ask(socket, "node_subscribe", topics=["logs"]))["code"] == -32002
    async with surface.connect("r3k_all") as socket:
        await ask(socket, "node_subscribe", topics=["logs"])
        surface.events.publish("logs", {"message": "hello"})
        assert (await event(socket))["data"] == {"message": "hello"}


async def test_subscription_over_plain_http_is_refused(surface: Surface) -> None:
    told = await Dispatcher(NodeEvents(surface.events)).answer(
        b'{"jsonrpc":"2.0","id":1,"method":"node_subscribe","params":{"topics":["status"]}}',
        Context(KEYS["r3k_all"]),
    )
    assert told is not None
    assert b"WebSocket" in told


@pytest.mark.parametrize(
    ("key", "headers", "status"),
    [
        (None, {}, 401),
        ("r3k_wrong", {}, 401),
        ("r3k_read", {"Origin": "https://evil.example"}, 403),
    ],
)
async def test_who_may_not_come_in_is_told_by_a_status(
    surface: Surface, key: str | None, headers: dict[str, str], status: int
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with surface.connect(key, **headers):
            pass
    assert refused.value.response.status_code == status
    told = json.loads(refused.value.response.body or b"")
    assert (told["jsonrpc"], told["id"]) == ("2.0", None)
    assert told["error"]["code"] == {401: -32001, 403: -32002}[status]


async def test_too_many_connections_are_refused(
    surface: Surface, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 1)
    async with surface.connect() as socket:
        await ask(socket, "node_info")
        with pytest.raises(InvalidStatus) as refused:
            async with surface.connect():
                pass
        assert refused.value.response.status_code == 503
        assert json.loads(refused.value.response.body or b"")["error"]["code"] == -32012
    async with surface.connect() as socket:
        await ask(socket, "node_info")


async def test_revoked_key_ends_the_connection(
    surface: Surface, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "KEY_CHECK_S", 0.05)
    async with surface.connect() as socket:
        await ask(socket, "node_subscribe", topics=["status"])
        del surface.keyring.keys["r3k_read"]
        ended = await closed(socket)
    assert ended.rcvd is not None
    assert ended.rcvd.code == 1008


async def test_messages_count_against_the_rate_of_the_key(surface: Surface) -> None:
    surface.rates.limits = Limits(rpm_per_key=3, rpm_per_address=0)
    surface.keyring.keys["r3k_fresh"] = replace(KEYS["r3k_read"], id="fresh")
    async with surface.connect("r3k_fresh") as socket:
        told = [await ask(socket, "node_info") for _ in range(3)]
    assert "peer_id" in told[1]
    assert told[2]["code"] == -32013
    assert told[2]["data"]["retry_after_ms"] > 0


async def test_revoked_key_calls_nothing_any_more(surface: Surface) -> None:
    async with surface.connect() as socket:
        await ask(socket, "node_info")
        del surface.keyring.keys["r3k_read"]
        assert (await ask(socket, "node_info"))["code"] == -32001


async def test_calls_of_a_batch_count_each(surface: Surface) -> None:
    surface.rates.limits = Limits(rpm_per_key=5, rpm_per_address=0)
    surface.keyring.keys["r3k_fresh"] = replace(KEYS["r3k_read"], id="batch")
    call = {"jsonrpc": "2.0", "id": 1, "method": "node_info"}
    async with httpx.AsyncClient(base_url=f"http://{surface.address}") as client:
        headers = {"authorization": "Bearer r3k_fresh"}
        told = (await client.post("/rpc", json=[call] * 7, headers=headers)).json()
        later = await client.post("/rpc", json=call, headers=headers)
    assert sorted("result" in one for one in told) == [False] * 2 + [True] * 5
    assert {one["error"]["code"] for one in told if "error" in one} == {-32013}
    assert later.status_code == 429


async def test_message_that_is_too_large_ends_the_connection(surface: Surface) -> None:
    async with surface.connect() as socket:
        await socket.send("x" * (1024 * 1024 + 1))
        ended = await closed(socket)
    assert ended.rcvd is not None
    assert ended.rcvd.code == 1009


async def test_who_never_reads_is_told_to_come_back_and_others_are_served(
    surface: Surface, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SLOW_S", 0.2)
    async with surface.connect() as slow:
        await ask(slow, "node_subscribe", topics=["requests"])
        reads_on = await ask(slow, "node_info")
        assert reads_on
        for _ in range(200):  # more than the kernel and the client's queue take
            surface.events.publish("requests", "x" * 200_000)
            await trio.sleep(0.005)
        async with surface.connect() as other:
            assert (await ask(other, "node_info"))["peer_id"]
        with trio.fail_after(30):
            ended = await closed(slow)
    assert ended.rcvd is not None
    assert ended.rcvd.code == 1013
    assert "cursor" in ended.rcvd.reason


async def test_who_leaves_without_having_read_anything_gives_its_place_back(
    surface: Surface, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 1)
    caller = WSConnection(ConnectionType.CLIENT)
    headers = [(b"authorization", b"Bearer r3k_read")]
    host, port = surface.address.split(":")
    small = trio.socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await small.connect((host, int(port)))
    stream = trio.SocketStream(small)
    await stream.send_all(caller.send(Request(surface.address, "/rpc", extra_headers=headers)))
    caller.receive_data(await stream.receive_some())
    call = {"jsonrpc": "2.0", "id": 1, "method": "node_subscribe"}
    asked = json.dumps({**call, "params": {"topics": ["requests"]}})
    await stream.send_all(caller.send(TextMessage(asked)))
    await stream.receive_some()
    for _ in range(100):  # more than the kernel takes
        surface.events.publish("requests", "x" * 200_000)
        await trio.testing.wait_all_tasks_blocked()
    again = caller.send(TextMessage(json.dumps(call)))
    await stream.send_all(b"".join([again] * 40))  # more than are answered or kept at a time
    await trio.testing.wait_all_tasks_blocked(0.1)
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()
    with trio.fail_after(10):
        await _come_in(surface)


async def _come_in(surface: Surface) -> None:
    while True:
        try:
            async with surface.connect():
                return
        except InvalidStatus:
            await trio.sleep(0.02)


async def test_node_that_stops_says_goodbye(surface: Surface) -> None:
    async with surface.connect() as socket:
        await ask(socket, "node_subscribe", topics=["status"])
        surface.stopping.set()
        ended = await closed(socket)
    assert ended.rcvd is not None
    assert (ended.rcvd.code, ended.rcvd.reason) == (1001, "the node is stopping")


def test_rings_forget_the_oldest_of_their_own_topic() -> None:
    events = Events(now_ms=lambda: 0, kept=2)
    for topic in ("status", "requests", "requests", "requests"):
        events.publish(topic, None)
    assert events.gone(["status"]) == 0
    assert events.gone(["requests", "status"]) == 2
