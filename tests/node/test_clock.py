"""The clock is set by an hour: it is noticed, and nothing that waits is disturbed."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.errors import AskTimeout
from r3mes.node.clock import ClockWatch


class Clocks:
    """A wall clock that can be set, over virtual time."""

    def __init__(self) -> None:
        self.set_by = 0.0

    def wall(self) -> float:
        return 1.8e9 + trio.current_time() + self.set_by


@pytest.mark.parametrize(
    ("by", "said"),
    [(3600, "the clock was set ahead by 3600 s"), (-3600, "the clock was set back by 3600 s")],
)
async def test_an_hour_is_reported_once(
    by: float,
    said: str,
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clocks = Clocks()
    watch = ClockWatch(clocks.wall, trio.current_time)
    await nursery.start(watch.run)
    await trio.sleep(60)
    assert watch.last is None
    clocks.set_by += by
    await trio.sleep(60)
    assert (watch.jumps, str(watch.last)) == (1, said)
    assert caplog.text.count(said) == 1


async def test_a_clock_that_is_kept_right_and_a_machine_that_sleeps_are_no_news(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    clocks = Clocks()
    slept = 0.0
    watch = ClockWatch(clocks.wall, lambda: trio.current_time() + slept)
    await nursery.start(watch.run)
    for _ in range(60):
        clocks.set_by += 0.5
        await trio.sleep(1)
    clocks.set_by, slept = clocks.set_by + 28_800, 28_800
    await trio.sleep(60)
    assert watch.jumps == 0


async def test_timeouts_do_not_look_at_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real time, with a wall clock that an hour was added to: an ask takes what it says."""
    real = __import__("time").time
    monkeypatch.setattr("time.time", lambda: real() + 3600)
    with trio.fail_after(10):
        with pytest.raises(AskTimeout):
            await Mailbox[Ask[None]]("silent").ask(Ask(), timeout=0.01)
