"""Keys over JSON-RPC: made, shown, rotated, ended; nobody gives more than he has."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from r3mes.actors.keyring import Keyring
from r3mes.actors.ledger import GATEWAY, Ledger, Receipt
from r3mes.actors.store import Store, open_store
from r3mes.errors import Unauthenticated
from r3mes.ids import Address, RequestHash
from r3mes.node.http.auth import AdminKey
from r3mes.node.http.ports import ApiKey
from r3mes.node.rpc.context import Context
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.methods.key import KeyMethods


@dataclass
class Keys:
    """The methods, as a caller with ``key`` sees them."""

    keyring: Keyring
    ledger: Ledger
    key: ApiKey
    now_ms: int = 1_000_000

    async def __call__(self, name: str, /, **params: object) -> Any:
        rpc = Dispatcher(KeyMethods(self.keyring, self.ledger))
        message = {"jsonrpc": "2.0", "id": 1, "method": name, "params": params}
        told = await rpc.answer(msgspec.json.encode(message), Context(self.key))
        assert told is not None
        answer = json.loads(told)
        return answer["result"] if "result" in answer else answer["error"]["data"]

    async def opens(self, secret: str) -> bool:
        try:
            await self.keyring.check(secret)
        except Unauthenticated:
            return False
        return True


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path) as store:
        yield store


@pytest.fixture
async def keys(store: Store) -> Keys:
    keyring = Keyring(store, now_ms=lambda: made.now_ms)
    made = Keys(keyring, Ledger(store, now_ms=lambda: made.now_ms), AdminKey())
    return made


async def test_life_of_a_key(keys: Keys, audited: Callable[[], list[dict[str, Any]]]) -> None:
    until = keys.now_ms + 10**9
    made = await keys(
        "key_create", name="laptop", scopes="ir", models=["tiny"], rpm=60, expires_ms=until
    )
    assert await keys.opens(made["secret"])
    (shown,) = await keys("key_list")
    assert shown == {
        "id": made["id"],
        "name": "laptop",
        "state": "active",
        "scopes": "ri",
        "models": ["tiny"],
        "rpm": 60,
        "created_ms": 1_000_000,
        "expires_ms": until,
        "revoked_ms": None,
        "last_used_ms": 1_000_000,
        "secrets": [{"created_ms": 1_000_000, "expires_ms": None, "last_used_ms": 1_000_000}],
    }

    other = await keys("key_rotate", id=made["id"], grace_s=60)
    assert [await keys.opens(one["secret"]) for one in (made, other)] == [True, True]
    (shown,) = await keys("key_list")
    assert [one["expires_ms"] for one in shown["secrets"]] == [1_060_000, None]
    assert await keys("key_retire", id=made["id"]) == {}
    assert [await keys.opens(one["secret"]) for one in (made, other)] == [False, True]

    assert await keys("key_revoke", id=made["id"]) == {}
    assert not await keys.opens(other["secret"])
    assert (await keys("key_list"))[0]["state"] == "revoked"
    events = [event for event in audited() if event["event"] != "rpc_called"]
    assert [event["event"] for event in events] == [
        "key_created", "key_rotated", "key_retired", "key_revoked",
    ]  # fmt: skip
    assert {(event["key"], event["by"]) for event in events} == {(made["id"], "admin socket")}
    assert (events[0]["scopes"], events[0]["models"]) == ("ir", '["tiny"]')


async def test_a_key_that_has_expired(keys: Keys) -> None:
    await keys("key_create", name="x", scopes="r", expires_ms=keys.now_ms + 1)
    keys.now_ms += 1
    assert (await keys("key_list"))[0]["state"] == "expired"


async def test_nobody_gives_more_than_he_has(keys: Keys) -> None:
    strong = await keys("key_create", name="strong", scopes="riwa")
    weak = await keys("key_create", name="admin alone", scopes="a")
    keys.key = await keys.keyring.check(weak["secret"])
    refused = await keys("key_create", name="x", scopes="aw")
    assert refused["code"] == "permission_denied"
    assert (await keys("key_rotate", id=strong["id"]))["code"] == "permission_denied"
    assert (await keys("key_rotate", id=weak["id"]))["id"] == weak["id"]
    assert len(await keys("key_list")) == 2


@pytest.mark.parametrize(
    ("own", "less", "more"),
    [
        ({"models": ["tiny"]}, {"models": ["tiny"]}, {"models": ["tiny", "large"]}),
        ({"models": ["tiny"]}, {"models": ["tiny"]}, {}),
        ({"expires_ms": 2_000_000}, {"expires_ms": 1_500_000}, {"expires_ms": 2_500_000}),
        ({"expires_ms": 2_000_000}, {"expires_ms": 2_000_000}, {}),
    ],
)
async def test_limited_key_gives_nobody_more_than_its_limits(
    keys: Keys, own: dict[str, Any], less: dict[str, Any], more: dict[str, Any]
) -> None:
    other = await keys("key_create", name="other", scopes="i", **more)
    made = await keys("key_create", name="own", scopes="ai", **own)
    keys.key = await keys.keyring.check(made["secret"])
    assert "secret" in await keys("key_create", name="less", scopes="i", **less)
    refused = await keys("key_create", name="more", scopes="i", **more)
    assert refused["code"] == "permission_denied"
    assert (await keys("key_rotate", id=other["id"]))["code"] == "permission_denied"
    assert "secret" in await keys("key_rotate", id=made["id"])


async def test_usage_of_a_key(keys: Keys) -> None:
    made = await keys("key_create", name="x", scopes="i")
    receipt = Receipt(
        RequestHash(b"h" * 32), GATEWAY, Address("remes1x"), b"i" * 16, "peer", "tiny",
        7, 3, 11, "stop", b"result", b"signature", b"counter", 5, made["id"],
    )  # fmt: skip
    await keys.ledger.record(receipt)
    used = {"answers": 1, "prompt_tokens": 7, "completion_tokens": 3, "cost_uremes": 11}
    assert await keys("key_usage", id=made["id"]) == used
    assert await keys("key_usage", id=made["id"], since_ms=6) == dict.fromkeys(used, 0)


@pytest.mark.parametrize(
    ("name", "params", "code"),
    [
        ("key_create", {"name": "x"}, "invalid_request"),
        ("key_create", {"name": "x", "scopes": "z"}, "invalid_request"),
        ("key_create", {"name": "x", "scopes": "r", "rpm": 10**30}, "invalid_request"),
        ("key_create", {"name": "x", "scopes": "r", "expires_ms": -1}, "invalid_request"),
        ("key_create", {"name": "x", "scopes": "r", "models": [1]}, "invalid_request"),
        ("key_usage", {"id": "nobody"}, "not_found"),
        ("key_usage", {"id": "x", "since_ms": 10**30}, "invalid_request"),
        ("key_rotate", {"id": "nobody"}, "not_found"),
        ("key_rotate", {"id": "x", "grace_s": -1}, "invalid_request"),
        ("key_retire", {"id": "nobody"}, "not_found"),
        ("key_revoke", {"id": "n" * 10_000}, "not_found"),
    ],
)
async def test_what_cannot_be(keys: Keys, name: str, params: dict[str, Any], code: str) -> None:
    assert (await keys(name, **params))["code"] == code


async def test_what_was_done_is_noted_also_when_the_caller_hangs_up(
    keys: Keys,
    store: Store,
    audited: Callable[[], list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = await keys("key_create", name="x", scopes="r")
    committed, tx = trio.Event(), store.tx

    async def slow(change: Any) -> None:
        await tx(change)
        committed.set()
        await trio.testing.wait_all_tasks_blocked()

    monkeypatch.setattr(store, "tx", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(keys, "key_revoke", id=made["id"]))
        await committed.wait()
        nursery.cancel_scope.cancel()
    assert audited()[-1]["event"] == "key_revoked"
