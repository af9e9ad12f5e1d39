"""The watchdog is fed while every part answers, and by nobody else.  On virtual time."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from r3mes.errors import AskTimeout
from r3mes.node.heartbeat import Heartbeat


class Part:
    """Answers after so many seconds."""

    def __init__(self) -> None:
        self.after = 0.0
        self.error: AskTimeout | None = None

    async def __call__(self) -> None:
        await trio.sleep(self.after)
        if self.error is not None:
            raise self.error


async def test_each_interval_is_a_beat(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    beats: list[float] = []
    heart = Heartbeat(
        {"a": Part(), "b": Part()}, interval=30, beat=lambda: beats.append(trio.current_time())
    )
    start = trio.current_time()
    await nursery.start(heart.run)
    await trio.sleep(95)
    assert [at - start for at in beats] == [0, 30, 60, 90]
    assert heart.beats == 4


async def test_a_silent_part_stops_the_beats_until_it_answers(
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
) -> None:
    part, beats = Part(), list[float]()
    heart = Heartbeat(
        {"store": part, "other": Part()},
        interval=30,
        beat=lambda: beats.append(trio.current_time()),
    )
    await nursery.start(heart.run)
    await trio.sleep(1)
    part.after = 3600
    await trio.sleep(300)
    assert len(beats) == 1
    assert heart.silent == {"store": "silent for 10 s"}
    part.after = 0
    await trio.sleep(12)  # its last chance of 10 s, and 1 s to the next round
    assert len(beats) == 2
    assert not heart.silent
    assert caplog.text.count("store does not answer") == 1
    assert "store answers again" in caplog.text


async def test_a_part_that_knows_that_it_cannot_answer(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    part = Part()
    part.error = AskTimeout("p2p: restarts")
    heart = Heartbeat({"p2p": part}, interval=30, beat=lambda: None)
    await nursery.start(heart.run)
    await trio.sleep(5)
    assert (heart.beats, heart.silent) == (0, {"p2p": "p2p: restarts"})
