"""API keys: who may use the HTTP API, and for what.

A key looks like ``r3k_<id>_<secret>_<checksum>``: an id of 8 characters that may be shown, 32
random bytes in base62, and the CRC-32 of all before it in base62, so that a mistyped key is
recognised without a look-up and a leaked one by a scanner.  Only the SHA-256 of the whole is
stored: against 256 random bits no slow hash is needed.

Source: GitHub, "Behind GitHub's new authentication token formats" (2021), for prefix and checksum.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from r3mes.actors.store import Connection, Store, Transaction
from r3mes.errors import BadRequest, NotFound, R3mesError, Unauthenticated

logger = logging.getLogger(__name__)

SCOPES = "riwa"
"""Read, invoke, wallet, admin."""

USED_EVERY_MS = 60_000
"""How often at most the time of the last use is written."""

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARS, _SECRET_CHARS, _CRC_CHARS = 8, 43, 6  # 62**43 > 2**256, 62**6 > 2**32


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key; its secret is not."""

    id: str
    name: str
    scopes: frozenset[str]
    created_ms: int
    last_used_ms: int | None
    revoked_ms: int | None


@dataclass(frozen=True, slots=True)
class _Known:
    key: ApiKey
    hash: bytes


class Keyring:
    """The keys in the store, kept in memory: a check reads no disk.

    One keyring per store: it alone knows when its memory is out of date.

    Args:
        store: where keys are kept.
        now_ms: the wall clock, in unix milliseconds.
    """

    def __init__(self, store: Store, *, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self._known: dict[str, _Known] | None = None
        self._changes = 0

    async def create(self, name: str, scopes: Iterable[str]) -> str:
        """Make a key and return its secret, which nobody can ever show again.

        Raises:
            BadRequest: a scope that does not exist, or none.
        """
        letters = "".join(sorted(set(scopes)))
        if not letters or not set(letters) <= set(SCOPES):
            raise BadRequest(f"scopes are some of {', '.join(SCOPES)}, not {letters!r}")
        key_id = _random(_ID_CHARS)
        secret = _with_checksum(f"r3k_{key_id}_{_base62(secrets.randbits(256), _SECRET_CHARS)}")
        row = (key_id, _hash(secret), name, letters, self._now_ms())
        await self._change(partial(_insert, row))
        return secret

    async def check(self, secret: str) -> ApiKey:
        """The key of this secret.

        Raises:
            Unauthenticated: mistyped, unknown or revoked.
        """
        key_id = _id_of(secret)
        keys = await self._keys()
        known = keys.get(key_id)
        if known is None or not hmac.compare_digest(known.hash, _hash(secret)):
            raise Unauthenticated("this API key is not known here")
        if known.key.revoked_ms is not None:
            raise Unauthenticated(f"the API key {key_id} was revoked")
        await self._used(known, keys)
        return known.key

    async def revoke(self, key_id: str) -> None:
        """Refuse the key from now on; a second time changes nothing.

        Raises:
            NotFound: there is no such key.
        """
        await self._change(partial(_revoke, key_id, self._now_ms()))

    async def list(self) -> list[ApiKey]:
        """All keys, also the revoked ones, oldest first."""
        keys = [known.key for known in (await self._keys()).values()]
        return sorted(keys, key=lambda key: (key.created_ms, key.id))

    async def _keys(self) -> dict[str, _Known]:
        while self._known is None:
            changes = self._changes
            known = await self._store.read(_all)
            if changes == self._changes:  # else what was read may be older than the change
                self._known = known
        return self._known

    async def _change(self, fn: Transaction[None]) -> None:
        try:
            await self._store.tx(fn)
        finally:  # also when cancelled: it may have been committed
            self._changes += 1
            self._known = None

    async def _used(self, known: _Known, keys: dict[str, _Known]) -> None:
        """Note the use now and then; a store in trouble must not turn callers away."""
        now_ms, last_ms = self._now_ms(), known.key.last_used_ms
        if last_ms is not None and now_ms - last_ms < USED_EVERY_MS:
            return
        key = replace(known.key, last_used_ms=now_ms)
        keys[key.id] = replace(known, key=key)  # first, so that one request of many writes
        try:
            await self._store.tx(partial(_touch, key.id, now_ms))
        except R3mesError as error:
            logger.warning("the last use of the API key %s was not noted: %s", key.id, error)


def _id_of(secret: str) -> str:
    body, _, _ = secret.rpartition("_")
    prefix, _, key_id = body[: len("r3k_") + _ID_CHARS].partition("_")
    if not secret.isascii() or prefix != "r3k" or secret != _with_checksum(body):
        raise Unauthenticated("this is not a whole API key (r3k_…)")
    return key_id


def _with_checksum(body: str) -> str:
    return f"{body}_{_base62(zlib.crc32(body.encode()), _CRC_CHARS)}"


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _random(chars: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(chars))


def _base62(number: int, chars: int) -> str:
    digits = []
    for _ in range(chars):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _insert(row: tuple[object, ...], connection: Connection) -> None:
    connection.execute(
        "INSERT INTO api_key (id, hash, name, scopes, created_ms) VALUES (?, ?, ?, ?, ?)", row
    )


def _touch(key_id: str, now_ms: int, connection: Connection) -> None:
    connection.execute("UPDATE api_key SET last_used_ms = ? WHERE id = ?", (now_ms, key_id))


def _revoke(key_id: str, now_ms: int, connection: Connection) -> None:
    changed = connection.execute(
        "UPDATE api_key SET revoked_ms = coalesce(revoked_ms, ?) WHERE id = ?", (now_ms, key_id)
    )
    if changed.rowcount == 0:
        raise NotFound(f"there is no API key {key_id!r}")


def _all(connection: Connection) -> dict[str, _Known]:
    rows = connection.execute(
        "SELECT id, name, scopes, created_ms, last_used_ms, revoked_ms, hash FROM api_key"
    )
    return {
        row[0]: _Known(ApiKey(row[0], row[1], frozenset(row[2]), *row[3:6]), row[6]) for row in rows
    }
