"""The line that the log gets every minute."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import cast

import pytest
import trio

from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.observing import Ended, Receipted
from r3mes.node.network import Network
from r3mes.node.summary import EVERY_S, Summary


class SmallNetwork:
    def connected(self) -> Sequence[str]:
        return ("one", "two")


async def test_a_line_a_minute(
    nursery: trio.Nursery, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="r3mes")
    summary = Summary(InferenceClient([]), cast(Network, SmallNetwork()))
    await nursery.start(summary.run)
    summary.observe(Ended("peer", "tiny", "ok", "", "stop", 1.0, 0.1, 10, 600))
    summary.observe(Ended("api", "tiny", "ok", "", "stop", 1.0, 0.1, 10, 600))
    summary.observe(Receipted("server", "kept", 12_400_000))
    summary.observe(Receipted("gateway", "kept", 5))
    await trio.sleep(2.5 * EVERY_S)
    start, end = "serving 0 models · 0 running", "2 peers · +12.40 REMES since the start"
    assert caplog.messages == [f"{start} · 10.0 tok/s · {end}", f"{start} · 0.0 tok/s · {end}"]
