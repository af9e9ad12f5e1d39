"""Which jobs run and which were answered: so that no job is worked on or billed twice.

A job is named by (sub, idem): the account that pays and the token that the caller repeats when it
retries.  Every function here may be repeated in any order without another effect.

Source: the idempotency rule of the signed envelope, ``UNIQUE(sub, idem)`` (docs/wire.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from functools import partial
from typing import Final

from r3mes.actors.store import Connection, Store
from r3mes.errors import AlreadyAnswered, NotFound
from r3mes.ids import Address, RequestHash

SERVER: Final = "server"
GATEWAY: Final = "gateway"


@dataclass(frozen=True, slots=True)
class Receipt:
    """One answered job, as one side keeps it; the fields are the columns of the table.

    ``price`` is in uremes, ``result`` and both signatures are the signed bytes themselves,
    ``countersignature`` is None until the gateway's has come; ``key_id`` names the API key that
    asked the gateway, and never leaves it.
    """

    request_hash: RequestHash
    role: str  # SERVER or GATEWAY: whose copy this is
    sub: Address
    idem: bytes
    peer: str  # the other side
    model: str
    prompt_tokens: int
    completion_tokens: int
    price: int
    status: str
    result: bytes
    signature: bytes
    countersignature: bytes | None
    created_ms: int
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a receipt stands among all, the newest first."""

    created_ms: int
    request_hash: RequestHash
    role: str


def place_of(receipt: Receipt) -> Place:
    """Where ``receipt`` stands."""
    return Place(receipt.created_ms, receipt.request_hash, receipt.role)


@dataclass(frozen=True, slots=True)
class Totals:
    """What receipts add up to.

    Args:
        earned_uremes: for answers to other nodes, of which there are ``served``.
        spent_uremes: for answers of other nodes, of which there are ``asked``.
        unsigned: of those served, without the asking node's signature.
        local: answers of this node to itself.
    """

    earned_uremes: int
    served: int
    unsigned: int
    spent_uremes: int
    asked: int
    local: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What was answered and paid for one API key, summed over its receipts."""

    answers: int
    prompt_tokens: int
    completion_tokens: int
    cost_uremes: int


_COLUMNS = ", ".join(field.name for field in fields(Receipt))
_PLACES = ", ".join("?" for _ in fields(Receipt))
_INSERT = f"INSERT INTO receipt ({_COLUMNS}) VALUES ({_PLACES})"  # noqa: S608  our own names
_SELECT = f"SELECT {_COLUMNS} FROM receipt"  # noqa: S608  our own names


class Ledger:
    """Jobs and receipts in the store.

    Args:
        store: where they are kept; its errors pass through every method.
        now_ms: the wall clock, in unix milliseconds.
    """

    def __init__(self, store: Store, *, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms

    async def open_job(self, sub: Address, idem: bytes, request_hash: RequestHash) -> None:
        """Take the job, before any work on it.

        Raises:
            AlreadyAnswered: it was taken before; with its receipt, or None while it runs.
        """
        await self._store.tx(partial(_open, sub, idem, request_hash, self._now_ms()))

    async def drop_job(self, sub: Address, idem: bytes, request_hash: RequestHash) -> None:
        """The job failed: a retry may come.  One with a receipt stays, and another request's."""
        await self._store.tx(partial(_drop, sub, idem, request_hash))

    async def drop_unfinished(self) -> int:
        """At start: jobs without a receipt belong to a process that died; says how many."""
        return await self._store.tx(_drop_unfinished)

    async def finish_job(self, receipt: Receipt) -> None:
        """Keep the server's receipt; the same one again changes nothing.

        Raises:
            AlreadyAnswered: the job has another receipt, which comes along.
        """
        _check_role(receipt, SERVER)
        await self._store.tx(partial(_finish, receipt))

    async def countersigned(self, request_hash: RequestHash, countersignature: bytes) -> None:
        """Add the gateway's signature to the server's receipt; the first one stays.

        Raises:
            NotFound: there is no such receipt.
        """
        await self._store.tx(partial(_countersign, request_hash, countersignature))

    async def record(self, receipt: Receipt) -> None:
        """Keep the gateway's receipt; the same one again changes nothing."""
        _check_role(receipt, GATEWAY)
        await self._store.tx(partial(_insert, receipt))

    async def page(
        self, *, limit: int = 50, since_ms: int = 0, after: Place | None = None
    ) -> list[Receipt]:
        """The newest receipts first, those behind ``after`` if it is given.

        What is recorded meanwhile moves nothing: a page goes on where the one before ended.
        """
        return await self._store.read(partial(_page, limit, since_ms, after))

    async def totals(self, own: str, *, since_ms: int = 0) -> Totals:
        """What was earned and spent since then.

        Args:
            own: this node's peer id; what it answered to itself moves nothing.
            since_ms: unix milliseconds.
        """
        return await self._store.read(partial(_totals, own, since_ms))

    async def usage(self, key_id: str, *, since_ms: int = 0) -> Usage:
        """What was answered for an API key since then; nothing for one that does not exist."""
        return await self._store.read(partial(_usage, key_id, since_ms))


def _check_role(receipt: Receipt, role: str) -> None:
    if receipt.role != role:
        raise ValueError(f"a {role}'s receipt is wanted, this is a {receipt.role}'s")


def _open(
    sub: Address, idem: bytes, request_hash: RequestHash, now_ms: int, connection: Connection
) -> None:
    taken = connection.execute(
        "INSERT INTO job VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (sub, idem, request_hash, now_ms),
    )
    if taken.rowcount == 0:
        raise _already(sub, idem, _of_job(sub, idem, connection))


def _drop(sub: Address, idem: bytes, request_hash: RequestHash, connection: Connection) -> None:
    if _of_job(sub, idem, connection) is None:
        connection.execute(
            "DELETE FROM job WHERE sub = ? AND idem = ? AND request_hash = ?",
            (sub, idem, request_hash),
        )


def _drop_unfinished(connection: Connection) -> int:
    return connection.execute(
        "DELETE FROM job WHERE NOT EXISTS (SELECT 1 FROM receipt"
        " WHERE role = 'server' AND receipt.sub = job.sub AND receipt.idem = job.idem)"
    ).rowcount


def _finish(receipt: Receipt, connection: Connection) -> None:
    known = _of_job(receipt.sub, receipt.idem, connection)
    if known is not None and known.request_hash != receipt.request_hash:
        raise _already(receipt.sub, receipt.idem, known)
    _insert(receipt, connection)
    connection.execute(  # the job was dropped meanwhile, or taken anew: this is its answer
        "INSERT INTO job VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET request_hash = excluded.request_hash",
        (receipt.sub, receipt.idem, receipt.request_hash, receipt.created_ms),
    )


def _countersign(
    request_hash: RequestHash, countersignature: bytes, connection: Connection
) -> None:
    changed = connection.execute(
        "UPDATE receipt SET countersignature = coalesce(countersignature, ?)"
        " WHERE request_hash = ? AND role = 'server'",
        (countersignature, request_hash),
    )
    if changed.rowcount == 0:
        raise NotFound(f"there is no receipt of the request {request_hash.hex()}")


def _insert(receipt: Receipt, connection: Connection) -> None:
    connection.execute(f"{_INSERT} ON CONFLICT (request_hash, role) DO NOTHING", astuple(receipt))


def _of_job(sub: Address, idem: bytes, connection: Connection) -> Receipt | None:
    row = connection.execute(
        f"{_SELECT} WHERE role = 'server' AND sub = ? AND idem = ?", (sub, idem)
    ).fetchone()
    return Receipt(*row) if row else None


def read_receipt(connection: Connection, request_hash: RequestHash, role: str) -> Receipt | None:
    """One side's copy of a receipt, straight from a database."""
    row = connection.execute(
        f"{_SELECT} WHERE request_hash = ? AND role = ?", (request_hash, role)
    ).fetchone()
    return Receipt(*row) if row else None


def _page(limit: int, since_ms: int, after: Place | None, connection: Connection) -> list[Receipt]:
    behind = "AND (created_ms, request_hash, role) < (?, ?, ?)" if after else ""
    rows = connection.execute(
        f"{_SELECT} WHERE created_ms >= ? {behind}"
        " ORDER BY created_ms DESC, request_hash DESC, role DESC LIMIT ?",
        (since_ms, *(astuple(after) if after else ()), limit),
    )
    return [Receipt(*row) for row in rows]


def _totals(own: str, since_ms: int, connection: Connection) -> Totals:
    row = connection.execute(
        "SELECT coalesce(sum(price) FILTER (WHERE served), 0), count(*) FILTER (WHERE served),"
        " count(*) FILTER (WHERE served AND countersignature IS NULL),"
        " coalesce(sum(price) FILTER (WHERE asked), 0), count(*) FILTER (WHERE asked),"
        " count(*) FILTER (WHERE peer = ? AND role = 'gateway')"
        " FROM (SELECT *, role = 'server' AND peer != ? AS served,"
        " role = 'gateway' AND peer != ? AS asked FROM receipt WHERE created_ms >= ?)",
        (own, own, own, since_ms),
    ).fetchone()
    return Totals(*row)


def _usage(key_id: str, since_ms: int, connection: Connection) -> Usage:
    row = connection.execute(
        "SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),"
        " coalesce(sum(price), 0) FROM receipt WHERE key_id = ? AND created_ms >= ?",
        (key_id, since_ms),
    ).fetchone()
    return Usage(*row)


def _already(sub: Address, idem: bytes, receipt: Receipt | None) -> AlreadyAnswered:
    state = "was answered" if receipt else "is being worked on"
    error = AlreadyAnswered(f"the job {idem.hex()} of {sub} {state}")
    error.receipt = receipt
    return error
