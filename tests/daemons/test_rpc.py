"""JSON-RPC on a whole node: looked at, drained and stopped over its admin socket."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from websockets.exceptions import ConnectionClosed
from websockets.trio.client import connect, unix_connect

from benchmarks.daemons import Daemon

pytestmark = pytest.mark.slow


@pytest.fixture
def node(daemon: Callable[..., Daemon]) -> Daemon:
    return daemon("node", models=[{"id": "builtin"}]).start().wait_for_model("builtin")


@pytest.fixture
def admin(node: Daemon) -> Callable[..., Any]:
    def call(name: str, **params: object) -> Any:
        return ask(node, name, params)

    return call


def ask(node: Daemon, name: str, params: object) -> Any:
    """The result of a call over the admin socket, or its error."""
    transport = httpx.HTTPTransport(uds=node.running.admin)
    with httpx.Client(transport=transport, base_url="http://node", timeout=30) as client:
        message = {"jsonrpc": "2.0", "id": 1, "method": name, "params": params}
        answer = client.post("/rpc", json=message).json()
        return answer["result"] if "result" in answer else answer["error"]


def said_on_p2p_port(node: Daemon, data: bytes) -> bytes:
    """What a stranger hears who asks where peers come in."""
    port = int(node.running.p2p[0].split("/tcp/")[1].split("/")[0])
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as stranger:
        stranger.sendall(data)
        stranger.shutdown(socket.SHUT_WR)
        while part := stranger.recv(4096):
            said += part
    return said


def test_admin_socket_looks_drains_resumes_and_stops(
    node: Daemon, admin: Callable[..., Any]
) -> None:
    assert admin("node_info")["peer_id"] == node.running.peer_id
    assert admin("node_health")["ready"]
    tree = {task["name"]: task for task in admin("node_tasks")["tasks"]}
    assert {"store", "p2p", "work", "surface"} <= tree.keys()
    work = {task["name"]: task for task in tree["work"]["children"]}
    assert work["inference.builtin"]["mailbox"]["capacity"] > 0

    assert b"jsonrpc" not in said_on_p2p_port(
        node, b"POST /rpc HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    )

    assert admin("node_drain", deadline_s=5) == {"in_flight": 0}
    refused = httpx.post(
        f"{node.url}/v1/chat/completions",
        headers=node.headers,
        json={"model": "builtin", "messages": [{"role": "user", "content": "Hi"}]},
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    assert not admin("node_health")["ready"]
    assert admin("node_resume") is None
    assert admin("node_health")["ready"]
    said = node.openai().chat.completions.create(
        model="builtin", messages=[{"role": "user", "content": "Hi"}], max_tokens=3
    )
    assert said.usage.completion_tokens > 0

    assert admin("node_shutdown") is None
    assert node.wait() == 0
    assert not (node.folder / "admin.sock").exists()


def test_events_of_a_whole_node_until_it_stops(node: Daemon) -> None:
    async def listen() -> tuple[set[str], int]:
        seen: set[str] = set()
        async with unix_connect(path=node.running.admin, uri="ws://node/rpc") as socket:
            params = {"topics": ["status", "requests", "logs"], "since": "00000000.0"}
            message = {"jsonrpc": "2.0", "id": 1, "method": "node_subscribe", "params": params}
            await socket.send(json.dumps(message))
            await trio.to_thread.run_sync(chat)
            with trio.fail_after(30):
                while not {"missed", "status", "requests"} <= seen:
                    told = json.loads(await socket.recv())
                    seen.add(told.get("params", {}).get("topic"))
                node.signal(signal.SIGTERM)
                with pytest.raises(ConnectionClosed) as ended:
                    while True:
                        await socket.recv()
        assert ended.value.rcvd is not None
        return seen, ended.value.rcvd.code

    def chat() -> None:
        node.openai().chat.completions.create(
            model="builtin", messages=[{"role": "user", "content": "Hi"}], max_tokens=3
        )

    assert trio.run(listen)[1] == 1001
    assert node.wait() == 0


def test_an_answer_is_streamed_and_comes_to_its_end_when_the_node_stops(
    daemon: Callable[..., Daemon], endless: Path
) -> None:
    models = [{"id": "builtin"}, {"id": str(endless), "name": "endless"}]
    node = daemon("node", models=models, limits={"drain_seconds": 20}).start()
    for name in ("builtin", "endless"):
        node.wait_for_model(name)

    async def stream(socket: Any, model: str, most: int, **more: object) -> str:
        said = [{"role": "user", "content": "What is a receipt?"}]
        params = {"model": model, "messages": said, "max_tokens": most, **more}
        message = {"jsonrpc": "2.0", "id": 1, "method": "infer_stream", "params": params}
        await socket.send(json.dumps(message))
        return str(json.loads(await socket.recv())["result"]["request_id"])

    async def end(socket: Any) -> Any:
        while (told := json.loads(await socket.recv()))["method"] != "infer_end":
            assert told["params"]["chunk"]["object"] == "chat.completion.chunk"
        return told["params"]

    async def listen() -> int:
        headers = node.headers
        async with connect(f"ws://{node.running.api}/rpc", additional_headers=headers) as socket:
            await stream(socket, "builtin", 8)
            first = await end(socket)
            assert 0 < first["usage"]["completion_tokens"] <= 8
            page = await trio.to_thread.run_sync(ask, node, "earn_receipts", [])
            assert first["r3mes"]["receipt_id"] in {one["receipt_id"] for one in page["receipts"]}

            request_id = await stream(socket, "endless", 900)
            await socket.recv()
            done = await trio.to_thread.run_sync(ask, node, "infer_cancel", [request_id])
            assert done == {"cancelled": True}
            assert (await end(socket))["error"]["data"]["code"] == "request_cancelled"

            await stream(socket, "endless", 60)
            await socket.recv()
            node.signal(signal.SIGTERM)
            last = await end(socket)
            assert (last["finish_reason"], last["usage"]["completion_tokens"]) == ("length", 60)
            with pytest.raises(ConnectionClosed) as ended:
                await socket.recv()
        assert ended.value.rcvd is not None
        return ended.value.rcvd.code

    assert trio.run(listen) == 1001
    assert node.wait() == 0


def test_shutdown_without_drain_ends_in_order_all_the_same(
    node: Daemon, admin: Callable[..., Any]
) -> None:
    assert admin("node_shutdown", drain=False) is None
    assert node.wait() == 0
    assert not (node.folder / "running.json").exists()
