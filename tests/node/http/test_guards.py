"""What gets in: keys, hosts, origins, sizes, slowness. Over the real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import trio

from r3mes.node.http import guards, server
from r3mes.node.http.app import build_routes
from r3mes.node.http.auth import OPEN

if TYPE_CHECKING:
    from tests.node.conftest import Api, Body

pytestmark = pytest.mark.net
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer r3k_both\r\n"


def walk(router: Any) -> Iterator[Any]:
    for route in router.routes:
        if hasattr(route, "original_router"):
            yield from walk(route.original_router)
        else:
            yield route


def every_route(api: Api) -> Iterator[tuple[str, str]]:
    for route in walk(build_routes(api.gateway, api.state, api.rpc)):
        for method in sorted(getattr(route, "methods", ())):  # a WebSocket has none
            yield method, route.path.replace("{model_id:path}", "org/tiny")


async def test_every_route_needs_a_key_but_three(api: Api) -> None:
    closed = [(method, path) for method, path in every_route(api) if path not in OPEN]
    assert len(closed) == 8
    async with api.client(key=None) as client:
        for method, path in [*closed, ("GET", "/nothing"), ("POST", "/healthz/../node/status")]:
            answer = await client.request(method, path)
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in OPEN:
            assert (await client.get(path)).status_code == 200, path


async def test_every_route_needs_a_scope(api: Api, chat: Body) -> None:
    async with api.client("r3k_none") as client:
        for method, path in every_route(api):
            if path == "/rpc":
                continue  # each of its methods has a scope of its own
            answer = await client.request(method, path, json=chat if method == "POST" else None)
            assert answer.status_code == (200 if path in OPEN else 403), (method, path, answer.text)


async def test_reading_key_cannot_ask(api: Api, chat: Body) -> None:
    async with api.client("r3k_read") as client:
        assert (await client.get("/v1/models")).status_code == 200
        answer = await client.post("/v1/chat/completions", json=chat)
    assert answer.status_code == 403
    assert answer.json()["error"]["type"] == "permission_error"
    assert "'i'" in answer.json()["error"]["message"]


async def test_a_key_for_one_model_sees_and_asks_no_other(api: Api, chat: Body) -> None:
    async with api.client("r3k_tiny") as client:
        listed = (await client.get("/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["org/tiny"]
        assert (await client.get("/v1/models/org/tiny")).status_code == 200
        assert (await client.get("/v1/models/other")).status_code == 403
        assert (await client.post("/v1/chat/completions", json=chat)).status_code == 200
        for stream in (False, True):
            body = {**chat, "model": "other", "stream": stream}
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 403
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("permission_denied", "model")
            assert "'r3k_tiny' is for org/tiny, not for 'other'" in error["message"]
    assert [(asked.model, asked.key_id) for asked in api.gateway.requests] == [("org/tiny", "tiny")]


@pytest.mark.parametrize(
    "value", ["r3k_both", "Basic r3k_both", "Bearer", "Bearer  r3k_both", "Bearer " + "x" * 300]
)
async def test_malformed_authorization(api: Api, value: str) -> None:
    async with api.client(key=None) as client:
        answer = await client.get("/v1/models", headers={"authorization": value})
    assert answer.status_code == 401


async def test_two_keys_at_once_are_none(api: Api) -> None:
    async with api.client() as client:
        headers = [("authorization", "Bearer r3k_both"), ("authorization", "Bearer r3k_read")]
        answer = await client.get("/v1/models", headers=headers)
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7331", "127.0.0.1.evil.example", ""]
)
async def test_foreign_host(api: Api, host: str) -> None:
    async with api.client() as client:
        answer = await client.get("/v1/models", headers={"host": host})
    assert answer.status_code == 403
    assert "allowed_hosts" in answer.json()["error"]["message"]


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:7331", "LOCALHOST"])
async def test_own_host(api: Api, host: str) -> None:
    async with api.client() as client:
        assert (await client.get("/v1/models", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
async def test_foreign_origin(api: Api, origin: str) -> None:
    async with api.client() as client:
        answer = await client.get("/v1/models", headers={"origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


async def test_own_origin(api: Api) -> None:
    async with api.client() as client:
        answer = await client.get("/v1/models", headers={"origin": api.url})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1.2:x_Y", True), ("x" * 65, False), ("a b", False)]
)
async def test_request_id(api: Api, given: str, kept: bool) -> None:
    async with api.client() as client:
        answer = await client.get("/healthz", headers={"x-request-id": given})
    assert (answer.headers["x-request-id"] == given) is kept
    assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]


async def test_body_too_large_by_content_length(api: Api) -> None:
    async with api.client() as client:
        answer = await client.post("/v1/chat/completions", content=b"x" * 65537)
    assert answer.status_code == 413
    assert "65536" in answer.json()["error"]["message"]


async def test_body_too_large_in_chunks(api: Api) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 8192

    async with api.client() as client:
        answer = await client.post("/v1/chat/completions", content=parts())
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close", "what is left of the body is never read"


async def test_wrong_content_length(api: Api) -> None:
    head = HEAD % api.address.encode() + b"Content-Length: many\r\n\r\n"
    assert (await api.raw(head)).startswith(b"HTTP/1.1 400")


async def test_slow_body_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "BODY_SECONDS", 0.2)
    with trio.fail_after(5):
        came = await api.raw(HEAD % api.address.encode() + b"Content-Length: 100\r\n\r\n{")
    assert came.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in came
    assert b"connection: close" in came


async def test_half_a_request_is_hung_up_on(api: Api) -> None:
    with trio.fail_after(5):
        assert await api.raw(b"GET /healthz HTTP/1.1\r\nHo") == b""


async def test_endless_header_is_refused(api: Api) -> None:
    with trio.fail_after(5):
        came = await api.raw(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * (server.HEADER_BYTES + 4096))
    assert came.startswith(b"HTTP/1.1 4")


async def test_noise_is_refused_and_others_are_served(api: Api) -> None:
    with trio.fail_after(5):
        came = await api.raw(bytes(range(256)) * 4)
    assert not came or came.startswith(b"HTTP/1.1 400")
    async with api.client() as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_websocket_needs_a_key(api: Api) -> None:
    with trio.fail_after(5):
        came = await api.raw(
            b"GET /v1/models HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            % api.address.encode()
        )
    assert came.startswith(b"HTTP/1.1 401")
