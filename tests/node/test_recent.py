"""The last minute of requests, on virtual time."""

from __future__ import annotations

import pytest
import trio

from r3mes.actors.observing import Ended, Event, Outcome, Routed, Source, Wrote
from r3mes.node import recent as module
from r3mes.node.recent import LastMinute, Recent


def ended(
    outcome: Outcome = "ok", source: Source = "api", first_token_s: float | None = None
) -> Ended:
    return Ended(source, "tiny", outcome, "", "", 1.0, first_token_s, 3, 4)


async def test_a_minute_is_summed_up_and_then_forgotten(autojump_clock: object) -> None:
    recent = Recent()
    assert recent.last_minute() == LastMinute(0, 0, 0, 0, None)
    recent.observe(ended(first_token_s=9.0))
    await trio.sleep(40)
    for outcome, wait in (("ok", 0.2), ("ok", 0.4), ("refused", None), ("failed", None)):
        recent.observe(ended(outcome, "peer", wait))  # type: ignore[arg-type]
    assert recent.last_minute() == LastMinute(3, 0, 1, 1, 0.4)
    await trio.sleep(21)
    assert recent.last_minute() == LastMinute(2, 0, 1, 1, 0.3)
    await trio.sleep(40)
    assert recent.last_minute() == LastMinute(0, 0, 0, 0, None)


async def test_what_the_node_asks_itself_counts_once(autojump_clock: object) -> None:
    recent = Recent()
    told: list[Event] = [ended("ok", "local"), ended("ok", "api"), ended("ok", "peer")]
    told += [Routed("peer"), Routed("local"), Routed("none"), Wrote("api", "tiny", 1, 0.1)]
    for event in told:
        recent.observe(event)
    recent.observe(ended("failed", "peer"))
    assert (recent.last_minute().ok, recent.served, recent.asked) == (2, 1, 1)


async def test_a_flood_keeps_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    recent = Recent()
    for outcome in ("ok", "failed", "failed", "failed"):
        recent.observe(ended(outcome))
    assert (recent.last_minute().ok, recent.last_minute().failed) == (0, 3)
