"""The line that the log gets every minute."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import cast

import pytest
import trio

from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.ledger import Ledger, Totals
from r3mes.actors.observing import Ended
from r3mes.errors import StoreError
from r3mes.ids import PeerId
from r3mes.node.earnings import Earnings
from r3mes.node.network import Network
from r3mes.node.summary import EVERY_S, Summary

NOON = datetime(2026, 11, 25, 12).astimezone()
DAY_MS = 24 * 3600 * 1000


class SmallNetwork:
    def connected(self) -> Sequence[str]:
        return ("one", "two")


class SmallLedger:
    """Knows what was earned at which time; until the store fails."""

    def __init__(self, *earned: tuple[int, int]) -> None:
        self.earned, self.fails = earned, False

    async def totals(self, own: str, *, since_ms: int = 0) -> Totals:
        if self.fails:
            raise StoreError
        found = [uremes for at_ms, uremes in self.earned if at_ms >= since_ms]
        return Totals(sum(found), len(found), 0, 0, 0, 0)


async def test_a_line_a_minute_with_what_was_earned_today(
    nursery: trio.Nursery, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="r3mes")
    now_ms = int(NOON.timestamp() * 1000)
    ledger = SmallLedger((now_ms - DAY_MS, 5_000_000), (now_ms - 60_000, 12_400_000))
    earnings = Earnings(cast(Ledger, ledger), PeerId("own"), now_ms=lambda: now_ms)
    summary = Summary(InferenceClient([]), cast(Network, SmallNetwork()), earnings)
    await nursery.start(summary.run)
    summary.observe(Ended("peer", "tiny", "ok", "", "stop", 1.0, 0.1, 10, 600))
    summary.observe(Ended("api", "tiny", "ok", "", "stop", 1.0, 0.1, 10, 600))
    await trio.sleep(1.5 * EVERY_S)
    now_ms += DAY_MS
    await trio.sleep(EVERY_S)
    ledger.fails = True
    await trio.sleep(EVERY_S)
    start, end = "serving 0 models · 0 running", "2 peers"
    assert caplog.messages == [
        f"{start} · 10.0 tok/s · {end} · +12.40 REMES today",
        f"{start} · 0.0 tok/s · {end} · +0.00 REMES today",
        f"{start} · 0.0 tok/s · {end}",
    ]
