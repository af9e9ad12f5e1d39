"""The keys in the store, kept in memory: a check reads no disk."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import trio

from r3mes.actors.keyring import rows
from r3mes.actors.keyring.form import hash_of, id_of, new_id, new_secret
from r3mes.actors.keyring.key import ApiKey, Issued, NewKey, Secret
from r3mes.actors.store import Store, Transaction
from r3mes.errors import BadRequest, R3mesError, Unauthenticated

logger = logging.getLogger(__name__)

USED_EVERY_MS = 60_000
"""How often at most the time of the last use is written."""


class Keyring:
    """Who may use the API.

    One keyring per store: it alone knows when its memory is out of date.

    Args:
        store: where keys are kept.
        now_ms: the wall clock, in unix milliseconds.
    """

    def __init__(self, store: Store, *, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self._known: dict[str, ApiKey] | None = None
        self._changes = 0

    async def create(self, new: NewKey) -> Issued:
        """Make a key; nobody can ever show its secret again.

        Raises:
            BadRequest: there are too many, or it would expire at once.
        """
        if new.expires_ms is not None and new.expires_ms <= self._now_ms():
            raise BadRequest(f"{_date(new.expires_ms)} is not in the future", param="expires_ms")
        key_id = new_id()
        secret = new_secret(key_id)
        await self._change(partial(rows.insert, key_id, new, hash_of(secret), self._now_ms()))
        return Issued(key_id, secret)

    async def rotate(self, key_id: str, *, grace_ms: int) -> Issued:
        """Make another secret for a key; the one in use opens it for ``grace_ms`` more.

        A newer secret that was never used is replaced: somebody has lost it.

        Raises:
            NotFound: there is no such key.
            BadRequest: it expired or was revoked.
        """
        secret = new_secret(key_id)
        now_ms = self._now_ms()
        await self._change(partial(rows.rotate, key_id, hash_of(secret), now_ms, grace_ms))
        return Issued(key_id, secret)

    async def retire(self, key_id: str) -> None:
        """End a rotation: only the newest secret opens the key; a second time changes nothing.

        Raises:
            NotFound, BadRequest: as `rotate`.
        """
        await self._change(partial(rows.retire, key_id, self._now_ms()))

    async def revoke(self, key_id: str) -> None:
        """Refuse the key from now on; a second time changes nothing.

        Raises:
            NotFound: there is no such key.
        """
        await self._change(partial(rows.revoke, key_id, self._now_ms()))

    async def list(self) -> list[ApiKey]:
        """All keys, also those that no longer open anything, oldest first."""
        return sorted((await self._keys()).values(), key=lambda key: (key.created_ms, key.id))

    async def find(self, key_id: str) -> ApiKey:
        """The key of this id.

        Raises:
            NotFound: there is none.
        """
        key = (await self._keys()).get(key_id)
        if key is None:
            raise rows.unknown(key_id)
        return key

    def has_expired(self, key: ApiKey) -> bool:
        """Whether its time is over."""
        return key.expires_ms is not None and key.expires_ms <= self._now_ms()

    async def check(self, secret: str) -> ApiKey:
        """The key of this secret.

        Raises:
            Unauthenticated: mistyped, unknown, replaced, expired or revoked.
        """
        key_id, given = id_of(secret), hash_of(secret)
        keys = await self._keys()
        key = keys.get(key_id)
        secrets = key.secrets if key else ()
        found = next((one for one in secrets if hmac.compare_digest(one.hash, given)), None)
        if key is None or found is None:
            raise Unauthenticated("this API key is not known here")
        self._refuse_ended(key, found)
        await self._used(key, found, keys)
        return key

    def _refuse_ended(self, key: ApiKey, secret: Secret) -> None:
        now_ms = self._now_ms()
        if key.revoked_ms is not None:
            raise Unauthenticated(f"the API key {key.id} was revoked on {_date(key.revoked_ms)}")
        if key.expires_ms is not None and key.expires_ms <= now_ms:
            raise Unauthenticated(f"the API key {key.id} expired on {_date(key.expires_ms)}")
        if secret.expires_ms is not None and secret.expires_ms <= now_ms:
            since = _date(secret.expires_ms)
            raise Unauthenticated(f"this secret of the API key {key.id} was replaced on {since}")

    async def _keys(self) -> dict[str, ApiKey]:
        while self._known is None:
            changes = self._changes
            known = await self._store.read(rows.read_all)
            if changes == self._changes:  # else what was read may be older than the change
                self._known = known
        return self._known

    async def _change(self, fn: Transaction[None]) -> None:
        """Change the keys whether or not the caller stays: who made a change has to note it."""
        try:
            with trio.CancelScope(shield=True):  # the store takes its deadline at most
                await self._store.tx(fn)
        finally:  # also when it failed: it may have been committed
            self._changes += 1
            self._known = None

    async def _used(self, key: ApiKey, secret: Secret, keys: dict[str, ApiKey]) -> None:
        """Note the use now and then; a store in trouble must not turn callers away."""
        now_ms, last_ms = self._now_ms(), secret.last_used_ms
        if last_ms is not None and now_ms - last_ms < USED_EVERY_MS:
            return
        used = replace(secret, last_used_ms=now_ms)
        all_of_it = tuple(used if one is secret else one for one in key.secrets)
        keys[key.id] = replace(key, secrets=all_of_it)  # first, so that one request of many writes
        try:
            await self._store.tx(partial(rows.touch, secret.hash, now_ms))
        except R3mesError as error:
            logger.warning("the last use of the API key %s was not noted: %s", key.id, error)


def _date(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
