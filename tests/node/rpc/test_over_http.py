"""JSON-RPC as programs reach it: over HTTP with a key, and over the admin socket without."""

from __future__ import annotations

import json
import os
import socket
import stat
from contextlib import closing
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from r3mes.config.schema import Limits
from r3mes.errors import ConfigError, NotFound, PortInUse, TooLarge
from r3mes.node.http.app import build_admin_app
from r3mes.node.http.server import HttpServer

if TYPE_CHECKING:
    from tests.node.conftest import Api

pytestmark = pytest.mark.net

INFO = {"jsonrpc": "2.0", "method": "node_info", "id": 1}


async def post(api: Api, message: object, key: str | None = "r3k_read", **more: Any) -> Any:
    async with api.client(key) as client:
        return await client.post("/rpc", json=message, **more)


async def test_call_and_batch_and_notification(api: Api) -> None:
    answer = await post(api, INFO)
    assert answer.status_code == 200
    assert answer.json()["result"]["peer_id"] == "12D3KooWtest"
    batch = await post(api, [INFO, {**INFO, "method": "nothing"}])
    assert [sorted(one) for one in batch.json()] == [
        ["id", "jsonrpc", "result"],
        ["error", "id", "jsonrpc"],
    ]
    told = await post(api, {"jsonrpc": "2.0", "method": "node_info"})
    assert (told.status_code, told.content) == (204, b"")


@pytest.mark.parametrize("key", [None, "r3k_wrong"])
async def test_every_method_needs_a_key(api: Api, key: str | None) -> None:
    for name in [*api.rpc.methods, "nothing"]:
        answer = await post(api, {**INFO, "method": name}, key)
        assert answer.status_code == 401, name
        assert "result" not in answer.text


@pytest.mark.parametrize("scope", ["none", "read", "i", "w", "a"])
async def test_every_method_needs_its_scope(api: Api, scope: str) -> None:
    has = {"none": "", "read": "r"}.get(scope, scope)
    for name, method in api.rpc.methods.items():
        answer = (
            await post(api, {**INFO, "method": name, "params": [0] * 99}, f"r3k_{scope}")
        ).json()
        expected = -32602 if method.scope == has else -32002  # no method takes 99 parameters
        assert answer["error"]["code"] == expected, name


async def test_message_that_is_too_large_is_not_decoded(api: Api) -> None:
    answer = await post(api, {**INFO, "params": {"x": "y" * 70_000}})
    assert answer.status_code == 413


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "https://evil.example"}])
async def test_web_pages_of_elsewhere_are_refused(api: Api, headers: dict[str, str]) -> None:
    assert (await post(api, INFO, headers=headers)).status_code == 403


def refused(answer: httpx.Response, status: int, code: int) -> dict[str, Any]:
    """The data of an error of JSON-RPC that keeps its HTTP status."""
    assert answer.status_code == status
    body = answer.json()
    assert (body.keys(), body["jsonrpc"], body["id"]) == ({"jsonrpc", "id", "error"}, "2.0", None)
    assert body["error"]["code"] == code
    assert answer.headers["x-should-retry"] in ("true", "false")
    assert isinstance(body["error"]["data"], dict)
    return dict(body["error"]["data"])


async def test_what_is_not_read_is_refused_in_the_form_of_json_rpc(api: Api) -> None:
    data = refused(await post(api, INFO, None), 401, -32001)
    assert (data["code"], "api-key" in data["do"]) == ("invalid_api_key", True)
    data = refused(await post(api, INFO, headers={"host": "evil.example"}), 403, -32002)
    assert "allowed_hosts" in data["do"]
    large = {**INFO, "params": {"x": "y" * 70_000}}
    refused(await post(api, large), 413, TooLarge.kind.rpc)
    async with api.client("r3k_read") as client:
        refused(await client.put("/rpc"), 404, NotFound.kind.rpc)
        other = await client.get("/rpc/nothing")
    assert other.json()["error"]["code"] == "not_found"
    api.rates.limits = Limits(rpm_per_key=1, rpm_per_address=0)
    answers = [await post(api, INFO) for _ in range(2)]
    data = refused(answers[1], 429, -32013)
    assert data["retry_after_ms"] == int(answers[1].headers["retry-after-ms"])


async def test_modules_are_those_that_the_key_may_use(api: Api) -> None:
    message = {**INFO, "method": "rpc_modules"}
    readable = {one.namespace for one in api.rpc.methods.values() if one.scope == "r"}
    assert "key" not in readable
    assert (await post(api, message)).json()["result"] == dict.fromkeys(readable, "1.0")


async def test_discovery_is_the_same_document_in_both_places(api: Api) -> None:
    document = (await post(api, {**INFO, "method": "rpc.discover"})).json()["result"]
    async with api.client("r3k_read") as client:
        assert (await client.get("/rpc/openrpc.json")).json() == document
    assert document["openrpc"] == "1.3.2"
    assert document["x-max-batch"] == 100
    listed = {method["name"]: method for method in document["methods"]}
    assert listed.keys() == api.rpc.methods.keys()
    for method in listed.values():
        assert method["summary"].endswith(".")
        for error in method["errors"]:
            section, code = error["$ref"].removeprefix("#/components/").split("/")
            assert document["components"][section][code]["data"]["code"] == code


@pytest.fixture
async def admin(api: Api, tmp_path: Path, nursery: trio.Nursery) -> Path:
    app = build_admin_app(gateway=api.gateway, state=api.state, rpc=api.rpc, max_body_bytes=65536)
    path = tmp_path / "run" / "admin.sock"
    await nursery.start(HttpServer(app, listen=f"unix:{path}").run)
    return path


def on_socket(path: Path) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://admin"
    )


async def test_admin_socket_takes_every_method_without_a_key(api: Api, admin: Path) -> None:
    async with on_socket(admin) as client:
        for name in api.rpc.methods:
            answer = await client.post("/rpc", json={**INFO, "method": name, "params": [0] * 99})
            assert answer.json()["error"]["code"] == -32602, name
        assert (await client.post("/rpc", json=INFO)).json()["result"]["network"] == "test-1"
        assert (await client.get("/v1/models")).status_code == 200
        assert (await client.post("/rpc", content=b"x" * 70_000)).status_code == 413


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_admin_socket_is_for_owner_and_group_whatever_the_umask(
    api: Api, tmp_path: Path, nursery: trio.Nursery, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    bind = socket.socket.bind

    def watched(self: socket.socket, address: Any) -> None:
        bind(self, address)
        modes.append(stat.S_IMODE(Path(address).stat().st_mode))

    monkeypatch.setattr(socket.socket, "bind", watched)
    before = os.umask(umask)
    try:
        await nursery.start(HttpServer(api.server._app, listen=f"unix:{tmp_path / 's'}").run)
    finally:
        os.umask(before)
    assert modes == [0o660 & ~umask]  # at no moment more than in the end
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660


async def test_admin_socket_goes_with_its_server_and_replaces_that_of_a_dead_one(
    api: Api, tmp_path: Path, nursery: trio.Nursery
) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = HttpServer(api.server._app, listen=f"unix:{path}")
    with trio.fail_after(5):
        async with trio.open_nursery() as serving:
            await serving.start(server.run)
            assert path.is_socket()
            server.drain()
    assert not path.exists()


def test_admin_socket_of_another_program_stays(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(PortInUse, match="another program"):
            trio.run(HttpServer(lambda *_: None, listen=f"unix:{path}").run)  # type: ignore[arg-type]
    assert path.is_socket()


@pytest.mark.parametrize("name", ["file", "x" * 120, "file/admin.sock"])
def test_admin_socket_that_cannot_be_is_a_matter_of_configuration(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="admin socket"):
        trio.run(HttpServer(lambda *_: None, listen=f"unix:{tmp_path / name}").run)  # type: ignore[arg-type]
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("end", ["drain", "cancel"])
async def test_caller_who_does_not_read_does_not_hold_up_the_end(
    api: Api, tmp_path: Path, end: str
) -> None:
    app = build_admin_app(gateway=api.gateway, state=api.state, rpc=api.rpc)
    server = HttpServer(app, listen=f"unix:{tmp_path / 's'}", drain_seconds=0.1)
    calls = json.dumps([{**INFO, "method": "rpc.discover"}] * 100).encode()
    with closing(socket.socket(socket.AF_UNIX)) as stuck:
        patience = Timer(15, stuck.shutdown, [socket.SHUT_RDWR])  # a cancel would not get through
        patience.start()
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            stuck.connect(str(tmp_path / "s"))
            head = b"POST /rpc HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(calls)
            stuck.sendall(head + calls)
            await trio.lowlevel.wait_readable(stuck)
            if end == "drain":
                server.drain()
            else:
                nursery.cancel_scope.cancel()
        assert patience.is_alive()
        patience.cancel()
