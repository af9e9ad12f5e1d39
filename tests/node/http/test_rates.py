"""Too many requests, of a key or from an address: refused with the time to come back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import openai
import pytest
import trio
from limits import RateLimitItemPerSecond

from r3mes.config.schema import Limits
from r3mes.node.http import rates as module
from r3mes.node.http.rates import Rates, address_of, is_loopback
from tests.node.conftest import KEY_FILE, KEYS, SmallKey

if TYPE_CHECKING:
    from tests.node.conftest import Api

pytestmark = pytest.mark.net
LIMIT, LEFT, RESET = (f"x-ratelimit-{name}-requests" for name in ("limit", "remaining", "reset"))


def limits(*, key: int = 0, address: int = 0, failures: int = 0) -> Limits:
    return Limits(rpm_per_key=key, rpm_per_address=address, auth_failures_per_address=failures)


async def test_a_key_over_its_rate_is_told_when_to_come_back(api: Api) -> None:
    api.rates.limits = limits(key=2)
    async with api.client() as client:
        answers = [await client.get("/v1/models") for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert [one.headers[LIMIT] for one in answers] == ["2"] * 3
    assert [one.headers[LEFT] for one in answers] == ["1", "0", "0"]
    refused = answers[-1]
    assert 0 < int(refused.headers["retry-after-ms"]) <= 60_000
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert refused.headers[RESET].endswith("s")
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "'r3k_both' sent more than 2 requests in a minute" in error["message"]
    async with api.client("r3k_read") as other:
        assert (await other.get("/v1/models")).status_code == 200


async def test_a_rate_of_its_own_goes_before_the_one_for_all(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KEYS, "r3k_slow", SmallKey("slow", "r3k_slow", {"r"}, rpm=1))
    api.rates.limits = limits(key=100)
    async with api.client("r3k_slow") as client:
        answers = [await client.get("/v1/models") for _ in range(2)]
    assert [one.status_code for one in answers] == [200, 429]


async def test_an_address_over_its_rate_whatever_its_keys(api: Api) -> None:
    api.rates.limits = limits(address=2)
    statuses = []
    for key in ("r3k_both", "r3k_read", "r3k_tiny"):
        async with api.client(key) as client:
            statuses.append((await client.get("/v1/models")).status_code)
            assert (await client.get("/healthz")).status_code == 200  # probes are not counted
    assert statuses == [200, 200, 429]


async def test_no_limit_and_no_header(api: Api) -> None:
    async with api.client() as client:
        assert LIMIT not in (await client.get("/v1/models")).headers


async def test_wrong_keys_are_limited_and_a_right_one_still_opens(
    api: Api, audited: Callable[[], list[dict[str, Any]]]
) -> None:
    api.rates.limits = limits(failures=2)
    async with api.client("r3k_wrong") as client:
        headers = {"x-request-id": "mine"}
        answers = [await client.get("/v1/models", headers=headers) for _ in range(4)]
    assert [one.status_code for one in answers] == [401, 401, 429, 429]
    assert "without a right key in a minute; of this one" in answers[-1].json()["error"]["message"]
    assert int(answers[-1].headers["retry-after-ms"]) > 0
    async with api.client() as client:
        assert (await client.get("/v1/models")).status_code == 200
    noted = {
        "event": "auth_failed",
        "address": "127.0.0.1",
        "why": "the API key is not known",
        "path": "/v1/models",
        "request": "mine",
    }
    assert audited() == [noted, {**noted, "limited_from_now": True}]


async def test_who_comes_without_a_right_key_is_told_the_file_and_the_command(api: Api) -> None:
    for key in (None, "r3k_wrong"):
        async with api.client(key) as client:
            message = (await client.get("/v1/models")).json()["error"]["message"]
        assert str(KEY_FILE) in message
        assert "r3mes keys list" in message
        assert "r3k_wrong" not in message


def ask(api: Api, *, max_retries: int) -> Any:
    with openai.OpenAI(
        base_url=f"{api.url}/v1", api_key="r3k_both", max_retries=max_retries
    ) as client:
        return client.models.list().data


async def test_the_openai_sdk_raises_its_rate_limit_error(api: Api) -> None:
    api.rates.limits = limits(key=1)
    async with api.client() as client:
        await client.get("/v1/models")
    with pytest.raises(openai.RateLimitError) as raised:
        await trio.to_thread.run_sync(lambda: ask(api, max_retries=0))
    assert raised.value.code == "rate_limit_exceeded"
    assert raised.value.request_id
    assert raised.value.response.headers[LEFT] == "0"


async def test_the_openai_sdk_comes_back_when_it_was_told_to(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, as it does by default; with minutes of one second."""
    monkeypatch.setattr(module, "RateLimitItemPerMinute", RateLimitItemPerSecond)
    api.rates.limits = limits(key=1)
    async with api.client() as client:
        await client.get("/v1/models")
    listed = await trio.to_thread.run_sync(lambda: ask(api, max_retries=2))
    assert [model.id for model in listed] == ["org/tiny", "other", "org/vectors"]


def test_a_clock_that_is_set_back_locks_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, now = Rates(limits(address=1)), time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    assert [rates.of_address("a").exceeded for _ in range(2)] == [False, True]  # type: ignore[union-attr]
    now -= 3600
    window = rates.of_address("a")
    assert window is not None
    assert not window.exceeded
    assert window.reset_s <= 60


def test_a_minute_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, now = Rates(limits(address=1)), time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    rates.of_address("a")
    now += 59.9
    assert rates.of_address("a").exceeded  # type: ignore[union-attr]
    now += 0.1
    assert not rates.of_address("a").exceeded  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("host", "address", "ours"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.8.8.8", "127.8.8.8", True),
        ("::1", "::1", True),
        ("203.0.113.7", "203.0.113.7", False),
        ("::ffff:203.0.113.7", "203.0.113.7", False),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", False),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64", False),
        ("nonsense", "unknown", False),
    ],
)
def test_where_a_request_comes_from(host: str, address: str, ours: bool) -> None:
    scope = {"type": "http", "client": (host, 1)}
    assert (address_of(scope), is_loopback(scope)) == (address, ours)


def test_a_request_from_nowhere() -> None:
    assert address_of({"type": "http", "client": None}) == "unknown"
    assert not is_loopback({"type": "http"})
