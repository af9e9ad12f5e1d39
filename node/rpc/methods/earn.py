"""Receipts: what was answered, for whom, and what it came to."""

from __future__ import annotations

from typing import Annotated, Protocol

from pydantic import Field

from r3mes.actors.ledger import Totals
from r3mes.errors import BadRequest
from r3mes.node.earnings import ReceiptPage
from r3mes.node.rpc.method import method

Limit = Annotated[int, Field(ge=1, le=500)]


class Earnings(Protocol):
    """The receipts."""

    async def page(self, *, limit: int, since: str | None, cursor: str | None) -> ReceiptPage: ...
    async def summary(self, since: str | None = None) -> Totals: ...


class EarnMethods:
    """The namespace ``earn``."""

    def __init__(self, earnings: Earnings) -> None:
        self._earnings = earnings

    @method("earn_receipts", scope="r", errors=(BadRequest,))
    async def receipts(
        self, limit: Limit = 50, since: str | None = None, cursor: str | None = None
    ) -> ReceiptPage:
        """The receipts, the newest first, a page at a time.

        `cursor` is the `next_cursor` of the page before; `since` is a time such as
        `2026-11-25T00:00:00Z`.
        """
        return await self._earnings.page(limit=limit, since=since, cursor=cursor)

    @method("earn_summary", scope="r", errors=(BadRequest,))
    async def summary(self, since: str | None = None) -> Totals:
        """What the receipts add up to, since a time or in all."""
        return await self._earnings.summary(since)
