"""Eleven ways in which a supervisor on trio goes wrong, each met in a prototype, each a test.

5 and 11 have their other halves in ``tests/node/test_lifecycle.py`` (the process ends) and in
``test_simulation.py``.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
import trio
import trio.lowlevel
import trio.testing

from r3mes.actors.kernel.actor import Actor
from r3mes.actors.kernel.backoff import Backoff
from r3mes.actors.kernel.child import ChildSpec, State
from r3mes.actors.kernel.escalation import on_stuck
from r3mes.actors.kernel.failure import real_error
from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.actors.kernel.supervisor import Supervisor
from r3mes.errors import ActorCrashed, Overloaded

AT_ONCE = Backoff(base=0.0)


@dataclass(frozen=True, slots=True)
class Do(Ask[int]):
    """Count it, then do what the word says."""

    what: str


class Clerk(Actor[Do]):
    """Counts what it did in this incarnation."""

    cleanup = 0.0  # seconds that its resources take to close

    def __init__(self, mailbox: Mailbox[Do]) -> None:
        super().__init__(mailbox)
        self.done = 0

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.cleanup)

    async def handle(self, message: Do) -> None:
        self.done += 1
        match message.what:
            case "crash":
                raise ZeroDivisionError
            case "refuse":
                raise Overloaded("later")
            case "refuse in a nursery":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._refuse)
            case "mix":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    nursery.start_soon(self._crash_when_cancelled)
            case _:
                message.reply(self.done)

    async def _refuse(self) -> None:
        raise Overloaded("later")

    async def _crash_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError


@pytest.fixture
def box() -> Mailbox[Do]:
    return Mailbox("clerk")


def clerk(box: Mailbox[Do], *, cleanup: float = 0.0) -> ChildSpec:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        actor = Clerk(box)
        actor.cleanup = cleanup
        await actor.run(task_status=task_status)

    return ChildSpec("clerk", run, backoff=AT_ONCE, stop_timeout=60)


def sleeper(name: str, log: list[str], *, cleanup: float = 0.0) -> ChildSpec:
    """A child that takes its time to stop."""

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            log.append(f"{name} stops")
            with trio.CancelScope(shield=True):
                await trio.sleep(cleanup)
            log.append(f"{name} stopped")

    return ChildSpec(name, run)


async def test_pitfall_01_outside_cancel_reaches_children_one_by_one(
    autojump_clock: object,
) -> None:
    """A cancel from outside hits all children at once unless each is behind a shield."""
    log: list[str] = []
    async with trio.open_nursery() as nursery:
        specs = [sleeper(name, log, cleanup=2) for name in "ab"]
        await nursery.start(Supervisor("s", specs).run)
        nursery.cancel_scope.cancel()
    assert log == ["b stops", "b stopped", "a stops", "a stopped"]


async def test_pitfall_02_the_end_is_announced_also_when_cancelled(
    autojump_clock: object,
) -> None:
    """Code after a cancel scope is skipped by a cancel from further out; ``finally`` is not."""
    log: list[str] = []

    async def never_ready(*, task_status: trio.TaskStatus[None]) -> None:
        log.append("starting")
        await trio.sleep_forever()

    async def dies(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        raise ZeroDivisionError

    specs = [
        ChildSpec("in backoff", dies, backoff=Backoff(base=1e6, cap=1e6)),
        sleeper("ready", log),
        ChildSpec("never ready", never_ready, ready_timeout=1e6),
    ]
    supervisor = Supervisor("s", specs)
    with trio.move_on_after(5):
        await supervisor.run()
    assert log == ["starting", "ready stops", "ready stopped"]
    assert {child.state for child in supervisor.statistics()} == {State.STOPPED}


async def test_pitfall_03_backoff_survives_the_1025th_failure(
    nursery: trio.Nursery, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    """``2.0 ** 1024`` overflows."""
    caplog.set_level(logging.CRITICAL)
    births = 0

    async def dies(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal births
        births += 1
        task_status.started()
        if births < 1100:
            raise ZeroDivisionError
        await trio.sleep_forever()

    spec = ChildSpec("dies", dies, backoff=Backoff(base=0.001, cap=0.001))
    supervisor = Supervisor("s", [spec], intensity=10_000)
    await nursery.start(supervisor.run)
    await trio.sleep(20)
    assert supervisor.statistics()[0].state is State.READY
    assert supervisor.statistics()[0].restarts == 1099


async def test_pitfall_04_one_failing_stop_leaves_nobody_running(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    """A raise inside the stop loop left the later children running and the nursery waiting."""
    log: list[str] = []

    async def fails_to_stop(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            raise OSError(errno.EIO, "cannot close")

    async def shielded(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    specs = [
        sleeper("a", log),
        ChildSpec("fails", fails_to_stop),
        ChildSpec("shielded", shielded, stop_timeout=2),
        sleeper("d", log),
    ]
    start = trio.current_time()
    async with trio.open_nursery() as inner:
        await inner.start(Supervisor("s", specs).run)
        inner.cancel_scope.cancel()
    assert log == ["d stops", "d stopped", "a stops", "a stopped"]
    assert trio.current_time() - start == pytest.approx(100)


async def test_pitfall_05_a_task_stuck_in_a_thread_is_reported() -> None:
    """trio cannot kill a task; whoever owns the process is told, and ends it."""
    release = threading.Event()
    stuck: list[str] = []

    def free(name: str) -> None:
        stuck.append(name)
        release.set()

    async def computes(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.to_thread.run_sync(release.wait)

    on_stuck(free)
    async with trio.open_nursery() as nursery:
        spec = ChildSpec("computes", computes, stop_timeout=0.05)
        await nursery.start(Supervisor("s", [spec]).run)
        nursery.cancel_scope.cancel()
    assert stuck == ["computes"]


async def test_pitfall_06_errors_mixed_with_cancellations_are_seen(
    box: Mailbox[Do], autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    """``except Exception`` catches no group that holds a `trio.Cancelled` beside the error."""
    log: list[str] = []

    async def ask() -> None:
        with pytest.raises(ActorCrashed, match="ZeroDivisionError"):
            await box.ask(Do("mix"), timeout=60)
        log.append("told")

    async with trio.open_nursery() as askers:
        async with trio.open_nursery() as nursery:
            await nursery.start(Supervisor("s", [sleeper("a", log), clerk(box)]).run)
            askers.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert sorted(log) == ["a stopped", "a stops", "told"]
    assert "clerk failed while it stopped" in caplog.text


def test_pitfall_06_real_error() -> None:
    zero = ZeroDivisionError()
    one = ExceptionGroup("outer", [ExceptionGroup("inner", [zero])])
    assert real_error(one) is zero
    two = real_error(ExceptionGroup("", [zero, OSError()]))
    assert isinstance(two, ExceptionGroup)
    assert two.exceptions[0] is zero


async def test_pitfall_07_the_asker_is_told_before_the_actor_cleans_up(
    box: Mailbox[Do], nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Otherwise it hangs until its deadline."""
    await nursery.start(Supervisor("s", [clerk(box, cleanup=20)]).run)
    start = trio.current_time()
    with pytest.raises(ActorCrashed, match="clerk: died of ZeroDivisionError"):
        await box.ask(Do("crash"), timeout=60)
    assert trio.current_time() == start
    assert await box.ask(Do("count"), timeout=60) == 1
    assert trio.current_time() - start == pytest.approx(20)


async def test_pitfall_08_a_poison_message_is_lost_once_and_the_queue_is_kept(
    box: Mailbox[Do], nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Left at the head it would loop; the state of the incarnation is gone, the mailbox is not."""
    outcomes: list[int | str] = []

    async def ask(what: str) -> None:
        try:
            number = await box.ask(Do(what), timeout=60)
            outcomes.append(number)
        except ActorCrashed:
            outcomes.append("crashed")

    async with trio.open_nursery() as askers:
        for what in ["count", "count", "crash", *["count"] * 9]:
            askers.start_soon(ask, what)
            await trio.testing.wait_all_tasks_blocked()
        supervisor = Supervisor("s", [clerk(box)])
        await nursery.start(supervisor.run)
    assert sorted(map(str, outcomes)) == sorted(
        ["1", "2", "crashed", *(str(n) for n in range(1, 10))]
    )
    assert supervisor.statistics()[0].restarts == 1


@pytest.mark.net
async def test_pitfall_09_a_listener_killed_by_one_connection_comes_back(
    nursery: trio.Nursery,
) -> None:
    """An exception in a `trio.serve_tcp` handler ends the listener and all its connections."""
    port, calls = 0, 0

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError(errno.ENOTCONN, "getpeername")
        await stream.send_all(b"hello")

    async def listens(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal port
        async with trio.open_nursery() as inner:
            listeners = await inner.start(partial(trio.serve_tcp, host="127.0.0.1"), answer, port)
            port = listeners[0].socket.getsockname()[1]
            task_status.started()

    supervisor = Supervisor("s", [ChildSpec("listens", listens, backoff=AT_ONCE)])
    with trio.fail_after(10):
        await nursery.start(supervisor.run)
        first = await trio.open_tcp_stream("127.0.0.1", port)
        assert await first.receive_some() == b""
        while supervisor.statistics()[0].restarts == 0 or (
            supervisor.statistics()[0].state is not State.READY
        ):
            await trio.lowlevel.checkpoint()
        second = await trio.open_tcp_stream("127.0.0.1", port)
        assert await second.receive_some() == b"hello"
        await second.aclose()
        await first.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("what", ["refuse", "refuse in a nursery"])
async def test_pitfall_10_a_refusal_is_no_crash(
    what: str, box: Mailbox[Do], nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Also when a nursery of the handler has wrapped it in a group."""
    supervisor = Supervisor("s", [clerk(box)])
    await nursery.start(supervisor.run)
    for _ in range(20):
        with pytest.raises(Overloaded, match="later"):
            await box.ask(Do(what), timeout=1)
    assert await box.ask(Do("count"), timeout=1) == 21
    assert supervisor.statistics()[0].restarts == 0


def test_pitfall_11_scheduling_is_deterministic_on_request() -> None:
    """trio shuffles ready tasks; two private names of it make a run a function of its seed."""
    from benchmarks.simulation import deterministic_trio

    def order(seed: int) -> list[int]:
        async def main() -> list[int]:
            out: list[int] = []

            async def note(number: int) -> None:
                out.append(number)

            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(note, number)
            return out

        with deterministic_trio(seed):
            return trio.run(main)

    assert order(1) == order(1)
    assert order(1) != order(2)
