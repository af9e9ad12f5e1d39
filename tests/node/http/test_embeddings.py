"""``/v1/embeddings`` and ``infer_embed``: bodies that are refused, keys, callers who leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

if TYPE_CHECKING:
    from tests.node.conftest import Api

pytestmark = pytest.mark.net
BODY: dict[str, Any] = {"model": "org/vectors", "input": "Hi"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [[1], [1.5]]}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": True}, "dimensions"),
        ({"model": ""}, "model"),
    ],
)
async def test_wrong_bodies(api: Api, change: dict[str, Any], param: str) -> None:
    async with api.client() as client:
        answer = await client.post("/v1/embeddings", json=BODY | change)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert api.embeddings.requests == []


async def test_unknown_fields_are_named(api: Api) -> None:
    async with api.client() as client:
        answer = await client.post("/v1/embeddings", json=BODY | {"truncate": "END", "user": "al"})
    assert answer.headers["x-r3mes-ignored"] == "truncate"


async def test_keys_without_the_scope_or_for_other_models(api: Api) -> None:
    async with api.client("r3k_read") as client:
        assert (await client.post("/v1/embeddings", json=BODY)).status_code == 403
    async with api.client("r3k_tiny") as client:
        assert (await client.post("/v1/embeddings", json=BODY)).status_code == 403
        listed = (await client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == ["org/tiny"]
    assert api.embeddings.requests == []


async def test_a_caller_who_leaves_is_not_waited_for(api: Api) -> None:
    api.embeddings.hold = trio.Event()
    async with api.client() as client:
        with trio.move_on_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: client.post("/v1/embeddings", json=BODY))
                while not api.embeddings.requests:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
    with trio.fail_after(5):
        await api.embeddings.cancelled.wait()


async def test_over_json_rpc(api: Api) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "infer_embed", "params": BODY}
    async with api.client() as client:
        answer = (await client.post("/rpc", json=call)).json()["result"]
        other = {**call, "params": BODY | {"model": "none"}}
        refused = (await client.post("/rpc", json=other)).json()["error"]
    assert answer["data"][0]["embedding"] == pytest.approx([2, 0.1, -1e-9])
    assert refused["data"]["code"] == "model_not_found"
