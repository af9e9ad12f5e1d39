"""The supervisor on virtual time: strategies, restart types, intensity, backoff, nesting."""

from __future__ import annotations

import logging
from random import Random

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from r3mes.actors.kernel.backoff import Backoff
from r3mes.actors.kernel.child import ChildSpec, Restart, State
from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.actors.kernel.supervisor import Strategy, Supervisor
from r3mes.errors import ActorStopped, RestartLimit, StartTimeout, StoreCorrupt

AT_ONCE = Backoff(base=0.0)


class Troupe:
    """Makes children that can be killed by name; `take` tells who was born (+) and died (-)."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.kill: dict[str, trio.Event] = {}
        self.fail_start: dict[str, int] = {}
        self.error: Exception | None = ZeroDivisionError("killed")

    def child(
        self, name: str, restart: Restart = Restart.PERMANENT, backoff: Backoff = AT_ONCE
    ) -> ChildSpec:
        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            if self.fail_start.get(name, 0):
                self.fail_start[name] -= 1
                raise OSError(name)
            await self._live(name, task_status)

        return ChildSpec(name, run, restart, backoff, fatal=(StoreCorrupt,))

    def children(self, names: str) -> list[ChildSpec]:
        return [self.child(name) for name in names]

    async def kill_now(self, *names: str) -> None:
        for name in names:
            self.kill[name].set()
        await trio.testing.wait_all_tasks_blocked()

    def take(self) -> str:
        out = " ".join(self.events)
        self.events.clear()
        return out

    async def _live(self, name: str, task_status: trio.TaskStatus[None]) -> None:
        self.kill[name] = trio.Event()
        self.events.append(f"+{name}")
        task_status.started()
        try:
            await self.kill[name].wait()
            if self.error is not None:
                raise self.error
        finally:
            self.events.append(f"-{name}")


@pytest.fixture
def troupe() -> Troupe:
    return Troupe()


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy.ONE_FOR_ONE, "-b +b"),
        (Strategy.ONE_FOR_ALL, "-b -c -a +a +b +c"),
        (Strategy.REST_FOR_ONE, "-b -c +b +c"),
    ],
)
async def test_strategies(
    strategy: Strategy,
    expected: str,
    troupe: Troupe,
    nursery: trio.Nursery,
    autojump_clock: object,
) -> None:
    await nursery.start(Supervisor("s", troupe.children("abc"), strategy=strategy).run)
    assert troupe.take() == "+a +b +c"
    await troupe.kill_now("b")
    assert troupe.take() == expected


async def test_stop_is_in_reverse_order(troupe: Troupe, autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(Supervisor("s", troupe.children("abc")).run)
        nursery.cancel_scope.cancel()
    assert troupe.take() == "+a +b +c -c -b -a"


async def test_restart_types(troupe: Troupe, nursery: trio.Nursery, autojump_clock: object) -> None:
    children = [
        troupe.child("p"),
        troupe.child("t", Restart.TEMPORARY),
        troupe.child("r", Restart.TRANSIENT),
    ]
    await nursery.start(Supervisor("s", children, strategy=Strategy.ONE_FOR_ALL).run)
    troupe.take()
    await troupe.kill_now("t")
    assert troupe.take() == "-t"
    await troupe.kill_now("r")
    assert troupe.take() == "-r -p +p +r"
    troupe.error = None
    await troupe.kill_now("r")
    assert troupe.take() == "-r"
    await troupe.kill_now("p")
    assert troupe.take() == "-p +p"  # permanent: also without an error; the others stay away


async def test_nobody_waits_for_a_child_that_does_not_come_back(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    box: Mailbox[Ask[int]] = Mailbox("once")

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep(3)

    spec = ChildSpec("once", run, Restart.TEMPORARY, intake=box)
    await nursery.start(Supervisor("s", [spec]).run)
    with pytest.raises(ActorStopped):  # and not AskTimeout
        await box.ask(Ask(), timeout=60)


async def test_failing_start_while_restarting_is_one_more_death(
    troupe: Troupe, nursery: trio.Nursery, autojump_clock: object
) -> None:
    supervisor = Supervisor("s", troupe.children("abc"), strategy=Strategy.ONE_FOR_ALL, intensity=3)
    await nursery.start(supervisor.run)
    troupe.take()
    troupe.fail_start["b"] = 2
    await troupe.kill_now("a")
    assert troupe.take() == "-a -c -b +a -a +a -a +a +b +c"


async def test_failing_starts_exhaust_the_intensity(troupe: Troupe, autojump_clock: object) -> None:
    supervisor = Supervisor("s", troupe.children("abc"), intensity=3)
    with pytest.RaisesGroup(
        pytest.RaisesExc(RestartLimit, match="s: 4 failures within 30 s, the last of c")
    ):
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            troupe.fail_start["c"] = 3
            troupe.kill["c"].set()
    assert troupe.take() == "+a +b +c -c -b -a"


async def test_first_start_that_fails_ends_the_supervisor_with_that_error(
    troupe: Troupe, autojump_clock: object
) -> None:
    troupe.fail_start["b"] = 1
    with pytest.raises(OSError, match="b"):
        await Supervisor("s", troupe.children("abc")).run()
    assert troupe.take() == "+a -a"


async def test_stop_during_a_slow_start(troupe: Troupe, autojump_clock: object) -> None:
    async def slow(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(100)
        task_status.started()

    specs = [troupe.child("a"), ChildSpec("slow", slow, ready_timeout=200)]
    with trio.move_on_after(5) as scope:
        await Supervisor("s", specs).run()
    assert scope.cancelled_caught
    assert troupe.take() == "+a -a"


async def test_ready_timeout_is_a_failure_to_start(
    troupe: Troupe, nursery: trio.Nursery, autojump_clock: object
) -> None:
    patience = 0.0

    async def slow(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(patience)
        task_status.started()
        await troupe.kill.setdefault("slow", trio.Event()).wait()

    spec = ChildSpec("slow", slow, ready_timeout=2, backoff=AT_ONCE)
    supervisor = Supervisor("s", [spec])
    patience = 3
    with pytest.raises(StartTimeout, match="slow: not ready after 2 s"):
        await supervisor.run()
    patience = 0
    await nursery.start(supervisor.run)
    patience = 3
    troupe.kill.pop("slow").set()
    await trio.sleep(1)
    patience = 0
    await trio.sleep(5)
    [child] = supervisor.statistics()
    assert (child.state, child.restarts) == (State.READY, 2)
    assert "StartTimeout" in str(child.last_error)


async def test_what_no_restart_cures_is_raised_at_once(
    troupe: Troupe, autojump_clock: object
) -> None:
    troupe.error = StoreCorrupt("page 7")
    with pytest.RaisesGroup(StoreCorrupt):
        async with trio.open_nursery() as nursery:
            await nursery.start(Supervisor("s", troupe.children("ab")).run)
            troupe.kill["a"].set()
    assert troupe.take() == "+a +b -a -b"


async def test_nested_supervisor_gives_up_to_its_parent(
    troupe: Troupe, nursery: trio.Nursery, autojump_clock: object
) -> None:
    inner = Supervisor("inner", troupe.children("xy"), intensity=0)
    outer = Supervisor("outer", [inner.as_child(), troupe.child("z")], intensity=1)
    await nursery.start(outer.run)
    troupe.take()
    await troupe.kill_now("x")
    await trio.sleep(1)  # its backoff
    assert troupe.take() == "-x -y +x +y"
    assert [(c.name, c.restarts) for c in outer.statistics()] == [("inner", 1), ("z", 0)]


async def test_deaths_in_an_earlier_run_do_not_count(
    troupe: Troupe, nursery: trio.Nursery, autojump_clock: object
) -> None:
    inner = Supervisor("inner", troupe.children("x"), intensity=1)
    await nursery.start(Supervisor("outer", [inner.as_child()]).run)
    for _ in range(3):
        await troupe.kill_now("x")
        await trio.sleep(1)  # the backoff of inner, after the second
    assert troupe.take() == "+x -x +x -x +x -x +x"
    assert inner.statistics()[0].restarts == 1


async def test_statistics(troupe: Troupe, nursery: trio.Nursery, autojump_clock: object) -> None:
    children = [troupe.child("a", backoff=Backoff(base=40)), troupe.child("b", Restart.TEMPORARY)]
    supervisor = Supervisor("s", children, rng=Random(1))  # noqa: S311
    assert supervisor.statistics() == ()
    await nursery.start(supervisor.run)
    born = trio.current_time()
    await trio.sleep(5)
    await troupe.kill_now("a", "b")
    a, b = supervisor.statistics()
    assert (a.state, a.restarts, a.last_error) == (State.WAITING, 1, "ZeroDivisionError('killed')")
    assert (b.state, b.restarts) == (State.STOPPED, 0)
    await trio.sleep(40)
    a, _ = supervisor.statistics()
    assert a.state is State.READY
    assert a.since > born + 5


def test_children_have_different_names(troupe: Troupe) -> None:
    with pytest.raises(ValueError, match="differ"):
        Supervisor("s", troupe.children("aa"))


@given(failures=st.integers(1, 5000), base=st.floats(0, 10), cap=st.floats(0, 100))
def test_backoff_is_clamped_and_fully_jittered(failures: int, base: float, cap: float) -> None:
    delay = Backoff(base, cap).delay_for(failures, Random(failures))  # noqa: S311
    assert 0 <= delay <= min(cap, base * 2.0 ** min(failures - 1, 100))


def test_backoff_grows_and_spreads() -> None:
    rng = Random(7)  # noqa: S311
    early = [Backoff(1, 64).delay_for(2, rng) for _ in range(500)]
    late = [Backoff(1, 64).delay_for(50, rng) for _ in range(500)]
    assert min(early) < 0.2
    assert 1.8 < max(early) <= 2
    assert min(late) < 4
    assert 60 < max(late) <= 64
    assert Backoff(base=0).delay_for(9, rng) == 0


class Longest(Random):
    """No luck: always the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        return b


async def test_backoff_grows_until_the_child_was_stable(
    troupe: Troupe, nursery: trio.Nursery, autojump_clock: object
) -> None:
    child = troupe.child("a", backoff=Backoff(base=1, cap=5, stable_after=60))
    supervisor = Supervisor("s", [child], intensity=99, rng=Longest())
    await nursery.start(supervisor.run)
    delays = []
    for lived in (0, 0, 0, 0, 70, 0):
        await trio.sleep(lived)
        died = trio.current_time()
        await troupe.kill_now("a")
        await trio.sleep(5.5)
        delays.append(round(supervisor.statistics()[0].since - died))
    assert delays == [1, 2, 4, 5, 1, 2]


async def test_a_child_in_backoff_delays_nobody_else(
    troupe: Troupe, nursery: trio.Nursery, autojump_clock: object
) -> None:
    slow = troupe.child("slow", backoff=Backoff(base=30))
    await nursery.start(Supervisor("s", [slow, troupe.child("b")], rng=Longest()).run)
    troupe.take()
    await troupe.kill_now("slow")
    await troupe.kill_now("b")
    assert troupe.take() == "-slow -b +b"


@settings(deadline=None, max_examples=60)
@given(
    gaps=st.lists(st.floats(0.1, 40), min_size=1, max_size=14),
    intensity=st.integers(0, 4),
    period=st.floats(1, 60),
)
def test_intensity_model(gaps: list[float], intensity: int, period: float) -> None:
    """The supervisor gives up exactly when more than `intensity` deaths fall in `period`."""

    async def main() -> int:
        troupe, survived = Troupe(), 0
        supervisor = Supervisor("s", [troupe.child("x")], intensity=intensity, period=period)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(supervisor.run)
                for gap in gaps:
                    await trio.sleep(gap)
                    await troupe.kill_now("x")
                    survived += 1
                nursery.cancel_scope.cancel()
        except* RestartLimit:
            pass
        return survived

    times: list[float] = []
    now, model = 0.0, 0
    for gap in gaps:
        now += gap
        times = [time for time in [*times, now] if time > now - period]
        if len(times) > intensity:
            break
        model += 1
    assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == model


@settings(deadline=None, max_examples=80)
@given(
    strategy=st.sampled_from(Strategy),
    rounds=st.lists(st.sets(st.sampled_from("abcd"), min_size=1), max_size=6),
)
def test_any_deaths_leave_each_child_running_once(
    strategy: Strategy, rounds: list[set[str]]
) -> None:
    """Whoever dies together, afterwards each child runs once and the stop is in order."""

    async def main() -> None:
        troupe = Troupe()
        supervisor = Supervisor("s", troupe.children("abcd"), strategy=strategy, intensity=99)
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            for dead in rounds:
                await troupe.kill_now(*dead)
            events = troupe.events
            assert {events.count(f"+{x}") - events.count(f"-{x}") for x in "abcd"} == {1}
            nursery.cancel_scope.cancel()
        assert troupe.events[-4:] == ["-d", "-c", "-b", "-a"]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_failure_while_stopping_is_logged_and_stops_nobody(
    troupe: Troupe, caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    async def untidy(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("forgot")

    specs = [troupe.child("a"), ChildSpec("untidy", untidy), troupe.child("c")]
    caplog.set_level(logging.WARNING)
    async with trio.open_nursery() as nursery:
        await nursery.start(Supervisor("s", specs).run)
        nursery.cancel_scope.cancel()
    assert troupe.take() == "+a +c -c -a"
    assert "untidy failed while it stopped" in caplog.text


async def test_a_child_that_interrupts_the_program_ends_the_tree_in_order(
    troupe: Troupe, autojump_clock: object
) -> None:
    async def interrupts(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        raise SystemExit(3)

    specs = [troupe.child("a"), ChildSpec("interrupts", interrupts), troupe.child("c")]
    with pytest.RaisesGroup(SystemExit, flatten_subgroups=True):
        await Supervisor("s", specs).run()
    assert troupe.take() in ("+a -a", "+a +c -c -a")
