"""What a browser needs before a page of `api.allowed_origins` can use the API. Real HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.node.conftest import PAGE

if TYPE_CHECKING:
    from tests.node.conftest import Api, Body

pytestmark = pytest.mark.net
WISH = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


async def test_preflight_of_a_known_page_needs_no_key(api: Api) -> None:
    async with api.client(key=None) as client:
        answer = await client.options("/v1/chat/completions", headers={"origin": PAGE, **WISH})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == WISH["access-control-request-headers"]
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": f"{PAGE}.evil.example"},
        {"origin": PAGE, "host": "evil.example"},
        {},
    ],
)
async def test_preflight_of_others_is_refused(api: Api, headers: dict[str, str]) -> None:
    async with api.client(key=None) as client:
        answer = await client.options("/v1/chat/completions", headers={**WISH, **headers})
    assert answer.status_code == 401
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert answer.headers["vary"] == "Origin"


async def test_options_without_a_wish_is_no_preflight(api: Api) -> None:
    async with api.client(key=None) as client:
        answer = await client.options("/v1/models", headers={"origin": PAGE})
    assert answer.status_code == 401


@pytest.mark.parametrize(("key", "status"), [("r3k_both", 200), ("r3k_read", 403), (None, 401)])
async def test_known_page_reads_answers_and_refusals(
    api: Api, chat: Body, key: str | None, status: int
) -> None:
    async with api.client(key) as client:
        answer = await client.post("/v1/chat/completions", json=chat, headers={"origin": PAGE})
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["access-control-expose-headers"] == "*"
    assert answer.headers["vary"] == "Origin"


async def test_known_page_reads_a_stream(api: Api, chat: Body) -> None:
    async with api.client() as client:
        body = {**chat, "stream": True}
        answer = await client.post("/v1/chat/completions", json=body, headers={"origin": PAGE})
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_foreign_page_with_a_key_is_refused(api: Api) -> None:
    async with api.client() as client:
        answer = await client.get("/v1/models", headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"


async def test_caller_that_is_no_page_is_told_nothing_of_cors(api: Api) -> None:
    async with api.client() as client:
        answer = await client.get("/v1/models")
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
