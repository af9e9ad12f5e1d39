"""API keys: made once, stored as a hash, checked in memory."""

import string
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from r3mes.actors import keyring as keyring_module
from r3mes.actors.keyring import Keyring
from r3mes.actors.store import DATABASE, Store, Transaction, open_store
from r3mes.errors import (
    AskTimeout,
    BadRequest,
    NotFound,
    NotReady,
    R3mesError,
    StoreBusy,
    Unauthenticated,
)


@dataclass
class Clock:
    ms: int = 1_000_000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def keyring(store: Store, clock: Clock) -> Keyring:
    return Keyring(store, now_ms=clock)


async def test_a_key_opens_with_its_scopes(keyring: Keyring) -> None:
    secret = await keyring.create("laptop", "ri")
    key = await keyring.check(secret)
    assert (key.name, key.scopes) == ("laptop", frozenset("ri"))
    assert [listed.id for listed in await keyring.list()] == [key.id]


async def test_the_form_of_a_key(keyring: Keyring) -> None:
    prefix, key_id, body, crc = (await keyring.create("x", "r")).split("_")
    assert (prefix, len(key_id), len(body), len(crc)) == ("r3k", 8, 43, 6)
    assert set(key_id + body + crc) <= set(string.ascii_letters + string.digits)
    assert (await keyring.check(await keyring.create("y", "a"))).id != key_id


async def test_the_secret_is_nowhere_in_the_database(keyring: Keyring, tmp_path: Path) -> None:
    secret = await keyring.create("x", "r")
    body = secret.split("_")[2].encode()
    for file in tmp_path.glob(f"{DATABASE}*"):  # noqa: ASYNC240  nothing else runs
        assert body not in file.read_bytes()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: "",
        lambda s: s[:-1],
        lambda s: s + "0",
        lambda s: s.replace("r3k_", "r3x_"),
        lambda s: s[:20] + ("a" if s[20] != "a" else "b") + s[21:],
        lambda s: s.upper(),
        lambda s: "sk-" + s,
        lambda s: s + "é",
        lambda s: "_" * len(s),
        lambda s: "\ud800" + s,
    ],
)
async def test_what_is_not_a_key_is_turned_away(
    keyring: Keyring, spoil: Callable[[str], str]
) -> None:
    secret = await keyring.create("x", "r")
    with pytest.raises(Unauthenticated) as refused:
        await keyring.check(spoil(secret))
    assert secret not in str(refused.value)


async def test_a_well_formed_key_of_another_node_is_turned_away(
    keyring: Keyring, tmp_path: Path
) -> None:
    async with open_store(tmp_path / "other") as other:
        foreign = await Keyring(other, now_ms=lambda: 0).create("x", "riwa")
    await keyring.create("mine", "r")
    with pytest.raises(Unauthenticated, match="not known"):
        await keyring.check(foreign)


async def test_a_known_id_with_another_secret_is_turned_away(keyring: Keyring) -> None:
    """The checksum is right, as anybody can compute it; the secret is not."""
    key_id = (await keyring.create("x", "r")).split("_")[1]
    forged = keyring_module._with_checksum(f"r3k_{key_id}_{'0' * 43}")
    with pytest.raises(Unauthenticated, match="not known"):
        await keyring.check(forged)


async def test_a_revoked_key_is_turned_away_at_once(keyring: Keyring, clock: Clock) -> None:
    secret = await keyring.create("x", "r")
    other = await keyring.create("y", "r")
    key = await keyring.check(secret)
    await keyring.revoke(key.id)
    clock.ms += 5
    await keyring.revoke(key.id)
    with pytest.raises(Unauthenticated, match="revoked"):
        await keyring.check(secret)
    await keyring.check(other)
    revoked = {listed.id: listed.revoked_ms for listed in await keyring.list()}
    assert revoked[key.id] == 1_000_000
    with pytest.raises(NotFound):
        await keyring.revoke("nobody")


async def test_a_look_up_that_a_revocation_overtakes_is_not_kept(
    keyring: Keyring, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = await keyring.create("x", "r")
    key_id = secret.split("_")[1]
    read = store.read

    async def slow_read(fn: Transaction[Any]) -> Any:
        rows = await read(fn)
        if not gate.is_set():
            gate.set()
            await keyring.revoke(key_id)
        return rows

    gate = trio.Event()
    monkeypatch.setattr(store, "read", slow_read)
    for _ in range(2):
        with pytest.raises(Unauthenticated, match="revoked"):
            await keyring.check(secret)


async def test_a_slow_look_up_does_not_bring_a_revoked_key_back(
    keyring: Keyring, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began before the revocation and ends after another one has read the new state."""
    secret = await keyring.create("x", "r")
    read, started, go_on = store.read, trio.Event(), trio.Event()

    async def slow_read(fn: Transaction[Any]) -> Any:
        rows = await read(fn)
        if not started.is_set():
            started.set()
            await go_on.wait()
        return rows

    async def check() -> None:
        with pytest.raises(Unauthenticated, match="revoked"):
            await keyring.check(secret)

    monkeypatch.setattr(store, "read", slow_read)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(check)
        await started.wait()
        await keyring.revoke(secret.split("_")[1])
        await check()
        go_on.set()
    await check()


async def test_a_check_reads_no_disk_and_writes_once_a_minute(
    keyring: Keyring, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = await keyring.create("x", "r")
    calls: list[str] = []
    read, tx = store.read, store.tx

    async def counted_read(fn: Transaction[Any]) -> Any:
        calls.append("read")
        return await read(fn)

    async def counted_tx(fn: Transaction[Any]) -> Any:
        calls.append("tx")
        return await tx(fn)

    monkeypatch.setattr(store, "read", counted_read)
    monkeypatch.setattr(store, "tx", counted_tx)
    for _ in range(100):
        await keyring.check(secret)
    assert calls == ["read", "tx"]
    clock.ms += 59_999
    await keyring.check(secret)
    assert calls == ["read", "tx"]
    clock.ms += 1
    await keyring.check(secret)
    assert calls == ["read", "tx", "tx"]
    fresh = Keyring(store, now_ms=clock)
    assert [key.last_used_ms for key in await fresh.list()] == [1_060_000]


@pytest.mark.parametrize("trouble", [StoreBusy, AskTimeout, NotReady])
async def test_a_store_in_trouble_turns_no_caller_away(
    keyring: Keyring, store: Store, monkeypatch: pytest.MonkeyPatch, trouble: type[R3mesError]
) -> None:
    secret = await keyring.create("x", "r")

    async def fail(_fn: Transaction[Any]) -> Any:
        raise trouble("held")

    monkeypatch.setattr(store, "tx", fail)
    assert (await keyring.check(secret)).name == "x"


@pytest.mark.parametrize("scopes", ["", "x", "rz", ["read"]])
async def test_scopes_that_do_not_exist(keyring: Keyring, scopes: Iterable[str]) -> None:
    with pytest.raises(BadRequest):
        await keyring.create("x", scopes)
