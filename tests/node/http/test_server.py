"""The server's life: its port, its end, and callers who misbehave for long."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from r3mes.errors import ConfigError, PortInUse
from r3mes.node.http import server
from r3mes.node.http.server import HttpServer

if TYPE_CHECKING:
    from tests.node.conftest import Api, Body

pytestmark = pytest.mark.net


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nobody should call this")


def test_port_in_use_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.RaisesGroup(PortInUse, allow_unwrapped=True) as caught:
            trio.run(HttpServer(nothing, listen=listen).run)
    error: Any = caught.value
    error = error if isinstance(error, PortInUse) else error.exceptions[0]
    assert listen in error.detail
    assert "api.listen" in error.do


@pytest.mark.parametrize("listen", ["203.0.113.7:1", "127.0.0.1:99999", "no.such.host.invalid:1"])
def test_address_that_is_not_ours(listen: str) -> None:
    with pytest.RaisesGroup(ConfigError, allow_unwrapped=True):
        trio.run(HttpServer(nothing, listen=listen).run)


async def test_drain_lets_streams_end_whole(api: Api, chat: Body) -> None:
    api.gateway.hold = trio.Event()
    texts = []

    async def listen() -> None:
        async with api.client() as client:
            answer = await client.post("/v1/chat/completions", json={**chat, "stream": True})
            texts.append(answer.text)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await api.gateway.asked.wait()
            api.server.drain()
            await refused(api)
            api.gateway.hold.set()
    assert "world" in texts[0]
    assert texts[0].endswith("data: [DONE]\n\n")


async def test_drain_ends_when_time_is_up(
    api: Api, chat: Body, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    api.gateway.hold = trio.Event()
    server = HttpServer(api.server._app, listen="127.0.0.1:0", drain_seconds=0.2)
    stopped = trio.Event()

    async def run(task_status: trio.TaskStatus[str]) -> None:
        await server.run(task_status=task_status)
        stopped.set()

    address = await nursery.start(run)

    async def listen() -> None:
        async with api.client() as client:
            with pytest.raises(httpx.HTTPError):
                await client.post(
                    f"http://{address}/v1/chat/completions", json={**chat, "stream": True}
                )

    with trio.fail_after(5):
        async with trio.open_nursery() as inner:
            inner.start_soon(listen)
            await api.gateway.asked.wait()
            server.drain()
            await stopped.wait()
    await api.gateway.cancelled.wait()


async def test_idle_connections_do_not_hold_up_the_end(api: Api, nursery: trio.Nursery) -> None:
    host, port = api.address.split(":")
    silent = [await trio.open_tcp_stream(host, int(port)) for _ in range(20)]
    with trio.fail_after(2):
        api.server.drain()
        for stream in silent:
            assert await stream.receive_some(1) == b""
            await stream.aclose()


async def test_starts_again_after_a_crash(api: Api) -> None:
    server = HttpServer(nothing, listen="127.0.0.1:0")
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            first = await nursery.start(server.run)
            assert server.address == first
            nursery.cancel_scope.cancel()


async def refused(api: Api) -> None:
    """Wait until the port takes no connection any more."""
    host, port = api.address.split(":")
    while True:
        try:
            stream = await trio.open_tcp_stream(host, int(port))
        except OSError:
            return
        await stream.aclose()


async def test_who_never_reads_is_given_up(
    api: Api, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """Hypercorn shields its sends: without a limit in the kernel such a caller stays for ever."""
    monkeypatch.setattr(server, "STALLED_SECONDS", 1)
    api.gateway.words = ["x" * 65536] * 1000
    http = HttpServer(api.server._app, listen="127.0.0.1:0", drain_seconds=0.1)
    host, port = (await nursery.start(http.run)).split(":")
    body = b'{"model": "org/tiny", "stream": true, "messages": [{"role": "user", "content": "x"}]}'
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer r3k_both\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        await stream.send_all(head.encode() + body)
        with trio.fail_after(10):
            await api.gateway.cancelled.wait()
