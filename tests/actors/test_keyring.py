"""API keys: made once, stored as a hash, checked in memory, rotated without a gap."""

import string
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from r3mes.actors.keyring import ApiKey, Issued, Keyring, NewKey, rows
from r3mes.actors.keyring.form import with_checksum
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
    secret = (await keyring.create(NewKey("laptop", "ri"))).secret
    key = await keyring.check(secret)
    assert (key.name, key.scopes) == ("laptop", frozenset("ri"))
    assert [listed.id for listed in await keyring.list()] == [key.id]


async def test_the_form_of_a_key(keyring: Keyring) -> None:
    prefix, key_id, body, crc = ((await keyring.create(NewKey("x", "r"))).secret).split("_")
    assert (prefix, len(key_id), len(body), len(crc)) == ("r3k", 8, 43, 6)
    assert set(key_id + body + crc) <= set(string.ascii_letters + string.digits)
    assert (await keyring.check((await keyring.create(NewKey("y", "a"))).secret)).id != key_id


async def test_the_secret_is_nowhere_in_the_database(keyring: Keyring, tmp_path: Path) -> None:
    secret = (await keyring.create(NewKey("x", "r"))).secret
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
    secret = (await keyring.create(NewKey("x", "r"))).secret
    with pytest.raises(Unauthenticated) as refused:
        await keyring.check(spoil(secret))
    assert secret not in str(refused.value)


async def test_a_well_formed_key_of_another_node_is_turned_away(
    keyring: Keyring, tmp_path: Path
) -> None:
    async with open_store(tmp_path / "other") as other:
        foreign = (await Keyring(other, now_ms=lambda: 0).create(NewKey("x", "riwa"))).secret
    await keyring.create(NewKey("mine", "r"))
    with pytest.raises(Unauthenticated, match="not known"):
        await keyring.check(foreign)


async def test_a_known_id_with_another_secret_is_turned_away(keyring: Keyring) -> None:
    """The checksum is right, as anybody can compute it; the secret is not."""
    key_id = ((await keyring.create(NewKey("x", "r"))).secret).split("_")[1]
    forged = with_checksum(f"r3k_{key_id}_{'0' * 43}")
    with pytest.raises(Unauthenticated, match="not known"):
        await keyring.check(forged)


async def test_a_revoked_key_is_turned_away_at_once(keyring: Keyring, clock: Clock) -> None:
    secret = (await keyring.create(NewKey("x", "r"))).secret
    other = (await keyring.create(NewKey("y", "r"))).secret
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
    secret = (await keyring.create(NewKey("x", "r"))).secret
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
    secret = (await keyring.create(NewKey("x", "r"))).secret
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
    secret = (await keyring.create(NewKey("x", "r"))).secret
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
    secret = (await keyring.create(NewKey("x", "r"))).secret

    async def fail(_fn: Transaction[Any]) -> Any:
        raise trouble("held")

    monkeypatch.setattr(store, "tx", fail)
    assert (await keyring.check(secret)).name == "x"


@pytest.mark.parametrize("scopes", ["", "x", "rz", ["read"]])
async def test_scopes_that_do_not_exist(keyring: Keyring, scopes: Iterable[str]) -> None:
    with pytest.raises(BadRequest) as refused:
        await keyring.create(NewKey("x", scopes))
    assert refused.value.param == "scopes"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", " "),
        ("name", "x" * 65),
        ("name", "two\nlines"),
        ("models", []),
        ("models", ["m"] * 65),
        ("models", [""]),
        ("models", ["m" * 257]),
        ("rpm", 0),
        ("rpm", 1_000_001),
        ("expires_ms", 0),
        ("expires_ms", 10**18),
    ],
)
def test_what_a_key_cannot_be(field: str, value: object) -> None:
    with pytest.raises(BadRequest):
        NewKey(**{"name": "x", "scopes": "r", field: value})  # type: ignore[arg-type]


async def test_what_a_key_may_do_is_kept(keyring: Keyring, store: Store, clock: Clock) -> None:
    new = NewKey("x", "i", models=["tiny", "org/other"], rpm=60, expires_ms=clock.ms + 5)
    await keyring.create(new)
    (key,) = await Keyring(store, now_ms=clock).list()
    assert (key.models, key.rpm, key.expires_ms) == (("tiny", "org/other"), 60, clock.ms + 5)


async def test_a_key_opens_nothing_once_it_has_expired(keyring: Keyring, clock: Clock) -> None:
    made = await keyring.create(NewKey("x", "r", expires_ms=clock.ms + 5))
    clock.ms += 4
    await keyring.check(made.secret)
    clock.ms += 1
    with pytest.raises(Unauthenticated, match=f"{made.id} expired on 1970-01-01 00:16 UTC"):
        await keyring.check(made.secret)
    with pytest.raises(BadRequest, match="expired"):
        await keyring.rotate(made.id, grace_ms=0)
    with pytest.raises(BadRequest, match="not in the future"):
        await keyring.create(NewKey("y", "r", expires_ms=clock.ms))


async def test_the_number_of_keys_is_bounded(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_KEYS", 2)
    first = await keyring.create(NewKey("x", "r"))
    await keyring.create(NewKey("y", "r"))
    with pytest.raises(BadRequest, match="2 keys already"):
        await keyring.create(NewKey("z", "r"))
    await keyring.revoke(first.id)
    await keyring.create(NewKey("z", "r"))


GRACE_MS = 100


async def opens(keyring: Keyring, *issued: Issued) -> list[bool]:
    async def one(secret: str) -> bool:
        try:
            await keyring.check(secret)
        except Unauthenticated:
            return False
        return True

    return [await one(each.secret) for each in issued]


async def test_while_a_key_is_rotated_two_secrets_open_it(keyring: Keyring, clock: Clock) -> None:
    old = await keyring.create(NewKey("x", "ri", rpm=5))
    assert await opens(keyring, old) == [True]
    new = await keyring.rotate(old.id, grace_ms=GRACE_MS)
    assert new.id == old.id
    assert await opens(keyring, old, new) == [True, True]
    assert (await keyring.check(new.secret)).rpm == 5
    clock.ms += GRACE_MS - 1
    assert await opens(keyring, old, new) == [True, True]
    clock.ms += 1
    assert await opens(keyring, old, new) == [False, True]


async def test_a_rotation_can_be_ended_early(keyring: Keyring, clock: Clock) -> None:
    old = await keyring.create(NewKey("x", "r"))
    await opens(keyring, old)
    new = await keyring.rotate(old.id, grace_ms=GRACE_MS)
    for _ in range(2):
        await keyring.retire(old.id)
        assert await opens(keyring, old, new) == [False, True]
    with pytest.raises(NotFound):
        await keyring.retire("nobody")


async def test_without_grace_the_old_secret_ends_at_once(keyring: Keyring) -> None:
    old = await keyring.create(NewKey("x", "r"))
    new = await keyring.rotate(old.id, grace_ms=0)
    assert await opens(keyring, old, new) == [False, True]


async def test_a_new_secret_that_was_lost_is_replaced_and_the_old_one_stays(
    keyring: Keyring,
) -> None:
    old = await keyring.create(NewKey("x", "r"))
    await opens(keyring, old)
    lost = await keyring.rotate(old.id, grace_ms=GRACE_MS)
    new = await keyring.rotate(old.id, grace_ms=GRACE_MS)
    assert await opens(keyring, old, lost, new) == [True, False, True]


async def test_at_most_two_secrets_live(keyring: Keyring) -> None:
    first = await keyring.create(NewKey("x", "r"))
    second = await keyring.rotate(first.id, grace_ms=GRACE_MS)
    await opens(keyring, first, second)
    third = await keyring.rotate(first.id, grace_ms=GRACE_MS)
    assert await opens(keyring, first, second, third) == [False, True, True]


async def test_a_rotation_brings_no_secret_back(keyring: Keyring, clock: Clock) -> None:
    first = await keyring.create(NewKey("x", "r"))
    await opens(keyring, first)
    second = await keyring.rotate(first.id, grace_ms=GRACE_MS)
    clock.ms += GRACE_MS
    third = await keyring.rotate(first.id, grace_ms=GRACE_MS)
    assert await opens(keyring, first, second, third) == [False, True, True]


async def test_each_secret_has_its_own_last_use(keyring: Keyring, clock: Clock) -> None:
    old = await keyring.create(NewKey("x", "r"))
    await opens(keyring, old)
    new = await keyring.rotate(old.id, grace_ms=10 * GRACE_MS)
    assert (await keyring.list())[0].last_used_ms == 1_000_000
    clock.ms += GRACE_MS
    await opens(keyring, new)
    (key,) = await keyring.list()
    assert [one.last_used_ms for one in key.secrets] == [1_000_000, 1_000_000 + GRACE_MS]
    assert key.last_used_ms == 1_000_000 + GRACE_MS


async def test_no_secret_in_what_is_printed(keyring: Keyring) -> None:
    made = await keyring.create(NewKey("x", "r"))
    key: ApiKey = await keyring.check(made.secret)
    shown = repr((made, key, await keyring.list(), keyring))
    assert made.secret not in shown
    assert made.secret.split("_")[2] not in shown
    assert repr(key.secrets[0].hash) not in shown
