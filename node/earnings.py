"""What this node earned and spent, from its receipts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from r3mes.actors.ledger import GATEWAY, SERVER, Ledger, Place, Receipt, Totals
from r3mes.errors import BadRequest
from r3mes.ids import PeerId, RequestHash

CURSOR = re.compile(r"([0-9]{1,16})\.([0-9a-f]{64})\.([sg])")
ROLES = {"s": SERVER, "g": GATEWAY}


@dataclass(frozen=True, slots=True)
class ReceiptShown:
    """One answer, as this node keeps its receipt.

    Args:
        receipt_id: hash of the signed request; the other side's copy has the same.
        role: ``server`` when this node wrote the answer, ``gateway`` when it asked for it.
        peer_id: the other side.
        local: the node asked itself; nothing is earned nor spent.
        status: how the answer ended: ``stop``, ``length`` or ``cancelled``.
        countersigned: both sides have signed.
        created_at: RFC 3339, UTC.
    """

    receipt_id: str
    role: str
    peer_id: str
    local: bool
    model: str
    prompt_tokens: int
    completion_tokens: int
    uremes: int
    status: str
    countersigned: bool
    created_at: str


@dataclass(frozen=True, slots=True)
class ReceiptPage:
    """Receipts, the newest first; ``next_cursor`` asks for those behind them, None at the end."""

    receipts: list[ReceiptShown]
    next_cursor: str | None


class Earnings:
    """Looks at the receipts.

    Args:
        ledger: keeps them.
        own: this node's peer id.
        now_ms: the wall clock, in unix milliseconds.
    """

    def __init__(self, ledger: Ledger, own: PeerId, *, now_ms: Callable[[], int]) -> None:
        self._ledger, self._own, self._now_ms = ledger, own, now_ms

    async def page(self, *, limit: int, since: str | None, cursor: str | None) -> ReceiptPage:
        """At most ``limit`` receipts.

        Raises:
            BadRequest: no such time or cursor.
        """
        after = None if cursor is None else _place(cursor)
        found = await self._ledger.page(limit=limit + 1, since_ms=_since_ms(since), after=after)
        shown = found[:limit]
        more = len(found) > limit
        return ReceiptPage(
            [self._shown(one) for one in shown], _cursor(shown[-1]) if more else None
        )

    async def summary(self, since: str | None = None) -> Totals:
        """What the receipts since then add up to; all of them if no time is given.

        Raises:
            BadRequest: no such time.
        """
        return await self._ledger.totals(self._own, since_ms=_since_ms(since))

    async def today(self) -> Totals:
        """The same since midnight, by the machine's own time zone."""
        now = datetime.fromtimestamp(self._now_ms() / 1000).astimezone()
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return await self._ledger.totals(self._own, since_ms=int(midnight.timestamp() * 1000))

    def _shown(self, receipt: Receipt) -> ReceiptShown:
        created = datetime.fromtimestamp(receipt.created_ms / 1000, UTC)
        return ReceiptShown(
            receipt_id=receipt.request_hash.hex(),
            role=receipt.role,
            peer_id=receipt.peer,
            local=receipt.peer == self._own,
            model=receipt.model,
            prompt_tokens=receipt.prompt_tokens,
            completion_tokens=receipt.completion_tokens,
            uremes=receipt.price,
            status=receipt.status,
            countersigned=receipt.countersignature is not None,
            created_at=created.isoformat(timespec="milliseconds"),
        )


def _cursor(receipt: Receipt) -> str:
    return f"{receipt.created_ms}.{receipt.request_hash.hex()}.{receipt.role[0]}"


def _place(cursor: str) -> Place:
    parts = CURSOR.fullmatch(cursor)
    if parts is None:
        raise BadRequest("cursor is not one that a page came with", param="cursor")
    created_ms, request_hash, role = parts.groups()
    return Place(int(created_ms), RequestHash(bytes.fromhex(request_hash)), ROLES[role])


def _since_ms(since: str | None) -> int:
    if since is None:
        return 0
    try:
        at = datetime.fromisoformat(since)
    except ValueError:
        do = "write it as 2026-11-25T00:00:00Z"
        raise BadRequest(f"since is no time: {since[:64]!r}", do=do, param="since") from None
    known = at if at.tzinfo else at.replace(tzinfo=UTC)  # as all times that the node shows
    return max(0, int(known.timestamp() * 1000))
