"""API keys: who may use this node, for what, how much and how long.

Nobody can give a key more than the own one has: no other scopes or models, and no longer life; the
admin socket has everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal, Protocol

from pydantic import Field

from r3mes.actors.keyring import ApiKey, Issued, NewKey
from r3mes.actors.keyring.key import MAX_MS
from r3mes.actors.ledger import Usage
from r3mes.errors import BadRequest, Forbidden, NotFound
from r3mes.node.audit import audit
from r3mes.node.http.ports import ApiKey as Caller
from r3mes.node.rpc.context import Context
from r3mes.node.rpc.method import method

DAY_S = 86_400
GraceS = Annotated[int, Field(ge=0, le=365 * DAY_S)]

Since = Annotated[int, Field(ge=0, le=MAX_MS)]


@dataclass(frozen=True, slots=True)
class SecretShown:
    """One of a key's secrets; all times are unix milliseconds.

    Args:
        expires_ms: when it stops to open the key, which a newer one opens by then.
        last_used_ms: exact to a minute.
    """

    created_ms: int
    expires_ms: int | None
    last_used_ms: int | None


@dataclass(frozen=True, slots=True)
class KeyShown:
    """A key; all times are unix milliseconds.

    Args:
        scopes: some of the letters r, i, w, a.
        models: the only models that it may ask; null for all.
        rpm: requests a minute; null for as many as everybody.
        secrets: the newest last; two while it is rotated.
    """

    id: str
    name: str
    state: Literal["active", "expired", "revoked"]
    scopes: str
    models: Sequence[str] | None
    rpm: int | None
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None
    last_used_ms: int | None
    secrets: Sequence[SecretShown]


class Keyring(Protocol):
    """The keys of this node."""

    async def create(self, new: NewKey) -> Issued: ...
    async def list(self) -> list[ApiKey]: ...
    async def find(self, key_id: str) -> ApiKey: ...
    async def rotate(self, key_id: str, *, grace_ms: int) -> Issued: ...
    async def retire(self, key_id: str) -> None: ...
    async def revoke(self, key_id: str) -> None: ...
    def has_expired(self, key: ApiKey) -> bool: ...


class Ledger(Protocol):
    """Knows what was answered for a key."""

    async def usage(self, key_id: str, *, since_ms: int = 0) -> Usage: ...


class KeyMethods:
    """The namespace ``key``."""

    def __init__(self, keyring: Keyring, ledger: Ledger) -> None:
        self._keyring, self._ledger = keyring, ledger

    @method("key_create", scope="a", errors=(BadRequest, Forbidden))
    async def create(
        self,
        context: Context,
        name: str,
        scopes: str,
        models: list[str] | None = None,
        rpm: int | None = None,
        expires_ms: int | None = None,
    ) -> Issued:
        """Make a key; its secret is in this answer and can never be shown again.

        `scopes` are some of the letters `r` (read), `i` (invoke), `w` (wallet), `a` (admin).
        Without `models` it may ask all, without `rpm` as often as `limits.rpm_per_key` allows,
        without `expires_ms` until it is revoked.
        """
        new = NewKey(name, scopes, models, rpm, expires_ms)
        _check_may_give(context.key, new)
        made = await self._keyring.create(new)
        audit("key_created", key=made.id, name=name, scopes=new.letters, models=new.models_json,
              rpm=rpm, expires_ms=expires_ms, **_by(context))  # fmt: skip
        return made

    @method("key_list", scope="a")
    async def list(self) -> list[KeyShown]:
        """Every key, also those that no longer open anything, oldest first; without secrets."""
        return [self._shown(key) for key in await self._keyring.list()]

    @method("key_rotate", scope="a", errors=(NotFound, BadRequest, Forbidden))
    async def rotate(self, context: Context, id: str, grace_s: GraceS = DAY_S) -> Issued:  # noqa: A002
        """Make another secret for a key; the one in use goes on opening it for `grace_s` seconds.

        `key_list` shows when each was used last, `key_retire` ends the old one early. A new secret
        that was never used is taken for lost and replaced.
        """
        _check_may_give(context.key, await self._keyring.find(id))
        made = await self._keyring.rotate(id, grace_ms=grace_s * 1000)
        audit("key_rotated", key=id, grace_s=grace_s, **_by(context))
        return made

    @method("key_retire", scope="a", errors=(NotFound, BadRequest))
    async def retire(self, context: Context, id: str) -> dict[str, object]:  # noqa: A002
        """End a rotation: from now on only the newest secret opens the key."""
        await self._keyring.retire(id)
        audit("key_retired", key=id, **_by(context))
        return {}

    @method("key_revoke", scope="a", errors=(NotFound,))
    async def revoke(self, context: Context, id: str) -> dict[str, object]:  # noqa: A002
        """Refuse a key from now on; answers that are being written go on."""
        await self._keyring.revoke(id)
        audit("key_revoked", key=id, **_by(context))
        return {}

    @method("key_usage", scope="a", errors=(NotFound,))
    async def usage(self, id: str, since_ms: Since = 0) -> Usage:  # noqa: A002
        """What was answered for a key and what it cost, from the receipts since then."""
        await self._keyring.find(id)
        return await self._ledger.usage(id, since_ms=since_ms)

    def _shown(self, key: ApiKey) -> KeyShown:
        return KeyShown(
            id=key.id,
            name=key.name,
            state=self._state(key),
            scopes="".join(letter for letter in "riwa" if letter in key.scopes),
            models=key.models,
            rpm=key.rpm,
            created_ms=key.created_ms,
            expires_ms=key.expires_ms,
            revoked_ms=key.revoked_ms,
            last_used_ms=key.last_used_ms,
            secrets=[
                SecretShown(one.created_ms, one.expires_ms, one.last_used_ms) for one in key.secrets
            ],
        )

    def _state(self, key: ApiKey) -> Literal["active", "expired", "revoked"]:
        if key.revoked_ms is not None:
            return "revoked"
        return "expired" if self._keyring.has_expired(key) else "active"


def _check_may_give(own: Caller, other: NewKey | ApiKey) -> None:
    """See that whoever holds ``own`` may be told a secret of ``other``."""
    if scopes := sorted(set(other.scopes) - set(own.scopes)):
        what = f"the scopes {', '.join(scopes)}, which it has not"
    elif own.models is not None and (
        other.models is None or not set(other.models) <= set(own.models)
    ):
        what = "models that it may not ask"
    elif own.expires_ms is not None and (other.expires_ms or inf) > own.expires_ms:
        what = "a longer life than it has"
    else:
        return
    raise Forbidden(
        f"the key {own.name!r} cannot give {what}",
        do="use the admin socket: run `r3mes keys` on the node's machine",
    )


def _by(context: Context) -> dict[str, str | None]:
    return {"by": context.key.name, "by_key": context.key.id}
