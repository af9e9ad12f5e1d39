"""Every answer of the API is counted under a route that exists."""

from __future__ import annotations

from pathlib import Path

import trio
from starlette.types import Scope

from r3mes.config.schema import Limits
from r3mes.node.http.app import build_app
from r3mes.node.http.counted import Counted
from r3mes.node.http.rates import Rates
from r3mes.node.rpc.dispatcher import Dispatcher
from tests.node.conftest import SmallGateway, SmallKeyring, SmallState

Heard = list[tuple[str, str, int]]


async def ask(path: str, *, method: str = "GET", key: str | None = "r3k_both") -> Heard:
    heard: Heard = []
    app = build_app(
        gateway=SmallGateway(),
        keyring=SmallKeyring(),
        state=SmallState(),
        rpc=Dispatcher(),
        rates=Rates(Limits()),
        key_file=Path("api-key"),
        heard=lambda *answer: heard.append(answer),
    )
    headers = [(b"host", b"localhost")]
    headers += [(b"authorization", f"Bearer {key}".encode())] if key else []
    scope: Scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": headers, "root_path": "", "scheme": "http",
        "http_version": "1.1", "server": ("localhost", 1), "client": ("127.0.0.1", 2),
    }  # fmt: skip
    await app(scope, _body, _nowhere)
    return heard


async def _body() -> dict[str, object]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _nowhere(message: object) -> None:
    await trio.lowlevel.checkpoint()


async def _never(*_: object) -> None:
    await trio.sleep_forever()


async def test_answers_by_route() -> None:
    assert await ask("/healthz", key=None) == [("/healthz", "GET", 200)]
    assert await ask("/v1/models") == [("/v1/models", "GET", 200)]
    assert await ask("/v1/models/org/tiny") == [("/v1/models/{model_id:path}", "GET", 200)]


async def test_refusals_by_route() -> None:
    assert await ask("/v1/models", key=None) == [("/v1/models", "GET", 401)]
    assert await ask("/rpc", method="POST", key=None) == [("/rpc", "POST", 401)]
    assert await ask("/v1/chat/completions") == [("/v1/chat/completions", "GET", 404)]


async def test_made_up_paths_and_methods_have_one_name() -> None:
    assert await ask("/wp-admin.php") == [("other", "GET", 404)]
    assert await ask("/healthz", method="BREW") == [("/healthz", "other", 404)]


async def test_a_caller_who_left_before_the_answer() -> None:
    heard: Heard = []
    app = Counted(_never, [], lambda *answer: heard.append(answer))
    with trio.move_on_after(0):
        await app({"type": "http", "method": "GET", "path": "/"}, _body, _nowhere)
    assert heard == [("other", "GET", 499)]
