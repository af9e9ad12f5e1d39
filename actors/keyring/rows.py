"""Keys in the database: functions of a connection, for the store to run."""

from __future__ import annotations

import json
from typing import Any

from r3mes.actors.keyring.key import ApiKey, NewKey, Secret
from r3mes.actors.store import Connection
from r3mes.errors import BadRequest, NotFound

MAX_KEYS = 1000
"""Keys that are not revoked: all of them are kept in memory."""


def insert(
    key_id: str, new: NewKey, secret_hash: bytes, now_ms: int, connection: Connection
) -> None:
    """Add a key with its first secret."""
    (count,) = connection.execute(
        "SELECT count(*) FROM api_key WHERE revoked_ms IS NULL"
    ).fetchone()
    if count >= MAX_KEYS:
        raise BadRequest(f"there are {MAX_KEYS} keys already", do="revoke those not in use")
    connection.execute(
        "INSERT INTO api_key (id, name, scopes, models, rpm, created_ms, expires_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (key_id, new.name, new.letters, new.models_json, new.rpm, now_ms, new.expires_ms),
    )
    _insert_secret(key_id, secret_hash, now_ms, connection)


def rotate(
    key_id: str, secret_hash: bytes, now_ms: int, grace_ms: int, connection: Connection
) -> None:
    """Add a secret; the one in use opens the key for ``grace_ms`` more, others no longer.

    The one in use is the newest that was used: a new secret that never was is taken for lost, so
    that rotating once more cannot shut out those who still have the old one.
    """
    secrets = _usable(key_id, now_ms, connection).secrets
    live = [one for one in secrets if one.expires_ms is None or one.expires_ms > now_ms]
    in_use = next((one for one in reversed(live) if one.last_used_ms), live[-1])
    connection.execute(
        "DELETE FROM api_key_secret WHERE key_id = ? AND hash != ?", (key_id, in_use.hash)
    )
    connection.execute(
        "UPDATE api_key_secret SET expires_ms = ? WHERE hash = ?", (now_ms + grace_ms, in_use.hash)
    )
    _insert_secret(key_id, secret_hash, now_ms, connection)


def retire(key_id: str, now_ms: int, connection: Connection) -> None:
    """From now on only the newest secret opens the key."""
    _usable(key_id, now_ms, connection)
    connection.execute(
        "UPDATE api_key_secret SET expires_ms = min(expires_ms, ?)"
        " WHERE key_id = ? AND expires_ms IS NOT NULL",
        (now_ms, key_id),
    )


def touch(secret_hash: bytes, now_ms: int, connection: Connection) -> None:
    """Note that a secret was used."""
    connection.execute(
        "UPDATE api_key_secret SET last_used_ms = ? WHERE hash = ?", (now_ms, secret_hash)
    )


def revoke(key_id: str, now_ms: int, connection: Connection) -> None:
    """Refuse a key from now on."""
    changed = connection.execute(
        "UPDATE api_key SET revoked_ms = coalesce(revoked_ms, ?) WHERE id = ?", (now_ms, key_id)
    )
    if changed.rowcount == 0:
        raise unknown(key_id)


def read_all(connection: Connection) -> dict[str, ApiKey]:
    """Every key by its id."""
    secrets: dict[str, list[Secret]] = {}
    for key_id, *columns in connection.execute(
        "SELECT key_id, hash, created_ms, expires_ms, last_used_ms FROM api_key_secret"
        " ORDER BY expires_ms IS NULL, created_ms"
    ):
        secrets.setdefault(key_id, []).append(Secret(*columns))
    rows = connection.execute(
        "SELECT id, name, scopes, models, rpm, created_ms, expires_ms, revoked_ms FROM api_key"
    )
    return {row[0]: _key(row, secrets.get(row[0], [])) for row in rows}


def _key(row: tuple[Any, ...], secrets: list[Secret]) -> ApiKey:
    key_id, name, scopes, models, rpm, created_ms, expires_ms, revoked_ms = row
    return ApiKey(
        key_id,
        name,
        frozenset(scopes),
        None if models is None else tuple(json.loads(models)),
        rpm,
        created_ms,
        expires_ms,
        revoked_ms,
        tuple(secrets),
    )


def _usable(key_id: str, now_ms: int, connection: Connection) -> ApiKey:
    key = read_all(connection).get(key_id)
    if key is None:
        raise unknown(key_id)
    if key.revoked_ms is not None or (key.expires_ms is not None and key.expires_ms <= now_ms):
        what = "expired" if key.revoked_ms is None else "was revoked"
        raise BadRequest(f"the API key {key_id} {what}", do="make a new one: `r3mes keys create`")
    return key


def _insert_secret(key_id: str, secret_hash: bytes, now_ms: int, connection: Connection) -> None:
    connection.execute(
        "INSERT INTO api_key_secret (hash, key_id, created_ms) VALUES (?, ?, ?)",
        (secret_hash, key_id, now_ms),
    )


def unknown(key_id: str) -> NotFound:
    """The error for an id that no key has."""
    return NotFound(f"there is no API key {key_id[:32]!r}", do="`r3mes keys list` shows their ids")
