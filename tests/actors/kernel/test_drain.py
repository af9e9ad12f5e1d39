"""Draining a tree: last child first, what was taken is finished, crashes included."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio
import trio.testing

from r3mes.actors.kernel.actor import Actor
from r3mes.actors.kernel.backoff import Backoff
from r3mes.actors.kernel.child import ChildSpec, State
from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.actors.kernel.supervisor import Supervisor
from r3mes.errors import ActorCrashed, ActorStopped, NotReady


@dataclass(frozen=True, slots=True)
class Job(Ask[str]):
    seconds: float
    crash: bool = False


class Worker(Actor[Job]):
    """Does a job, and its half at the worker below."""

    def __init__(self, mailbox: Mailbox[Job], below: Mailbox[Job] | None) -> None:
        super().__init__(mailbox)
        self._below = below

    async def handle(self, message: Job) -> None:
        await trio.sleep(message.seconds)
        if message.crash:
            raise ZeroDivisionError
        if self._below is not None:
            await self._below.ask(Job(message.seconds / 2), timeout=60)
        message.reply(self.mailbox.name)


def worker(
    box: Mailbox[Job], below: Mailbox[Job] | None = None, backoff: Backoff | None = None
) -> ChildSpec:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        await Worker(box, below).run(task_status=task_status)

    return ChildSpec(box.name, run, backoff=backoff or Backoff(0.0), intake=box)


class Office:
    """Two workers, the upper of which asks the lower; the upper is a level down in the tree."""

    def __init__(self, backoff: Backoff | None = None) -> None:
        self.low: Mailbox[Job] = Mailbox("low")
        self.high: Mailbox[Job] = Mailbox("high")
        self.inner = Supervisor("inner", [worker(self.high, self.low, backoff)])
        self.root = Supervisor("root", [worker(self.low), self.inner.as_child()])
        self.outcomes: list[str] = []
        self.ended = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self.root.run(task_status=task_status)
        self.root.close()
        self.ended.set()

    async def ask(self, box: Mailbox[Job], job: Job) -> None:
        try:
            answer = await box.ask(job, timeout=600)
        except (ActorCrashed, ActorStopped, NotReady) as error:
            answer = type(error).__name__
        self.outcomes.append(answer)


async def test_what_was_taken_is_finished_from_the_top_down(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    office = Office()
    await nursery.start(office.run)
    for _ in range(3):
        nursery.start_soon(office.ask, office.high, Job(2))
        nursery.start_soon(office.ask, office.low, Job(2))
    await trio.testing.wait_all_tasks_blocked()
    office.root.drain()
    await trio.sleep(1)
    with pytest.raises(NotReady, match="high: draining"):
        await office.high.ask(Job(1), timeout=1)
    nursery.start_soon(office.ask, office.low, Job(1))  # its turn comes later: still open
    await office.ended.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(office.outcomes) == ["high"] * 3 + ["low"] * 4
    with pytest.raises(ActorStopped):
        await office.high.ask(Job(1), timeout=1)


async def test_a_crash_while_draining_loses_its_own_message_only(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    office = Office()
    await nursery.start(office.run)
    for job in (Job(2), Job(2, crash=True), Job(2)):
        nursery.start_soon(office.ask, office.high, job)
        await trio.testing.wait_all_tasks_blocked()
    office.root.drain()
    await office.ended.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert office.outcomes == ["high", "ActorCrashed", "high"]


async def test_a_child_in_backoff_comes_back_to_finish(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    office = Office(backoff=Backoff(20))
    await nursery.start(office.run)
    nursery.start_soon(office.ask, office.high, Job(0, crash=True))
    await trio.testing.wait_all_tasks_blocked()
    assert office.inner.statistics()[0].state is State.WAITING
    nursery.start_soon(office.ask, office.high, Job(2))
    await trio.testing.wait_all_tasks_blocked()
    office.root.drain()
    await office.ended.wait()
    assert sorted(office.outcomes) == ["ActorCrashed", "high"]


async def test_drain_cut_short_tells_everybody(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    office = Office()
    start = trio.current_time()
    with trio.move_on_after(5):
        async with trio.open_nursery() as inner:
            await inner.start(office.root.run)
            for _ in range(3):
                nursery.start_soon(office.ask, office.high, Job(100))
            await trio.testing.wait_all_tasks_blocked()
            office.root.drain()
    office.root.close()
    await trio.testing.wait_all_tasks_blocked()
    assert office.outcomes == ["ActorStopped"] * 3
    assert trio.current_time() - start == pytest.approx(5)


async def test_children_without_intake_are_stopped_in_their_turn(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    box: Mailbox[Job] = Mailbox("box")
    log: list[str] = []

    async def server(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            log.append(f"server stops, {box.statistics().received} received")

    root = Supervisor("root", [ChildSpec("server", server), worker(box)])
    async with trio.open_nursery() as inner:
        await inner.start(root.run)
        for _ in range(3):
            box.tell_nowait(Job(1))
        root.drain()
    assert log == ["server stops, 3 received"]
    assert {child.state for child in root.statistics()} == {State.STOPPED}


async def test_drain_before_the_start_ends_after_it(autojump_clock: object) -> None:
    box: Mailbox[Job] = Mailbox("box")
    box.tell_nowait(Job(1))
    root = Supervisor("root", [worker(box)])
    root.drain()
    await root.run()
    assert box.statistics().received == 1
