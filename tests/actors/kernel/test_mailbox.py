"""Mailbox and actor on virtual time: deadlines, shedding, answers, draining, figures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from typing import TypeAlias, assert_never

import pytest
import trio
import trio.testing

from r3mes.actors.kernel.actor import Actor
from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.errors import (
    ActorStopped,
    AskTimeout,
    BadRequest,
    MailboxFull,
    NotReady,
    Refused,
)


@dataclass(frozen=True, slots=True)
class Add(Ask[int]):
    amount: int


@dataclass(frozen=True, slots=True)
class Reset:
    pass


@dataclass(frozen=True, slots=True)
class Sleep(Ask[None]):
    seconds: float


@dataclass(frozen=True, slots=True)
class Later(Ask[None]):
    """Answered from the actor's own nursery."""

    seconds: float


Message: TypeAlias = Add | Reset | Sleep | Later


class Counter(Actor[Message]):
    def __init__(self, mailbox: Mailbox[Message]) -> None:
        super().__init__(mailbox)
        self.total = 0
        self.handled = 0

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as self._nursery:
            yield

    async def handle(self, message: Message) -> None:
        self.handled += 1
        match message:
            case Add(amount=amount):
                if amount < 0:
                    raise BadRequest("negative")
                self.total += amount
                message.reply(self.total)
            case Reset():
                self.total = 0
            case Sleep(seconds=seconds):
                await trio.sleep(seconds)
                message.reply(None)
            case Later():
                self._nursery.start_soon(self._answer_later, message)
            case _:
                assert_never(message)

    async def _answer_later(self, message: Later) -> None:
        await trio.sleep(message.seconds)
        if message.seconds == 13:
            raise ZeroDivisionError
        message.reply(None)


@pytest.fixture
def box() -> Mailbox[Message]:
    return Mailbox("counter", capacity=4)


@pytest.fixture
async def counter(box: Mailbox[Message], nursery: trio.Nursery) -> Counter:
    actor = Counter(box)
    await nursery.start(actor.run)
    return actor


async def test_ask_and_tell(
    box: Mailbox[Message], counter: Counter, autojump_clock: object
) -> None:
    assert await box.ask(Add(2), timeout=1) == 2
    await box.tell(Reset())
    assert await box.ask(Add(5), timeout=1) == 5
    with pytest.raises(Refused, match="negative"):
        await box.ask(Add(-1), timeout=1)
    assert await box.ask(Add(1), timeout=1) == 6


async def test_expired_ask_is_dropped_unrun(
    box: Mailbox[Message], counter: Counter, autojump_clock: object
) -> None:
    start = trio.current_time()
    with pytest.raises(AskTimeout, match="counter: no answer to Sleep within 1 s"):
        await box.ask(Sleep(10), timeout=1)
    with pytest.raises(AskTimeout):
        await box.ask(Add(1), timeout=1)  # still queued behind the sleeper
    assert trio.current_time() - start == pytest.approx(2)
    await trio.sleep(20)
    assert await box.ask(Add(0), timeout=1) == 0
    assert box.statistics().expired == 1
    assert counter.handled == 2


async def test_cancelled_ask_is_dropped_unrun(
    box: Mailbox[Message], nursery: trio.Nursery, autojump_clock: object
) -> None:
    with trio.move_on_after(1):
        await box.ask(Add(7), timeout=60)  # nobody serves the mailbox yet
    await nursery.start(Counter(box).run)
    assert await box.ask(Add(0), timeout=1) == 0


async def test_a_deadline_is_mandatory_and_a_message_is_asked_once(
    box: Mailbox[Message], counter: Counter, autojump_clock: object
) -> None:
    with pytest.raises(ValueError, match="finite"):
        await box.ask(Add(1), timeout=inf)
    with pytest.raises(TypeError):
        await box.ask(Add(1))  # type: ignore[call-arg]
    message = Add(1)
    await box.ask(message, timeout=1)
    with pytest.raises(ValueError, match="asked once"):
        await box.ask(message, timeout=1)


async def test_full_mailbox_slows_the_patient_and_sheds_the_others(
    box: Mailbox[Message], counter: Counter, nursery: trio.Nursery, autojump_clock: object
) -> None:
    nursery.start_soon(lambda: box.ask(Sleep(5), timeout=9))
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(4):
        box.tell_nowait(Reset())
    start = trio.current_time()
    with pytest.raises(MailboxFull):
        box.tell_nowait(Reset())
    with pytest.raises(MailboxFull):
        await box.ask(Add(1), timeout=60, shed=True)
    assert trio.current_time() == start
    assert await box.ask(Add(1), timeout=60) == 1
    assert trio.current_time() - start == pytest.approx(5)
    assert box.statistics().refused == 2


async def test_overload_leaves_nobody_waiting_beyond_the_deadline(autojump_clock: object) -> None:
    """200 asks at once, 50 a second done, 8 may wait, 100 ms each: shed, late or answered."""
    box: Mailbox[Message] = Mailbox("slow", capacity=8)
    actor = Counter(box)
    outcomes: list[str] = []

    async def ask() -> None:
        start = trio.current_time()
        try:
            await box.ask(Sleep(0.02), timeout=0.1, shed=True)
            outcomes.append("ok")
        except (MailboxFull, AskTimeout) as error:
            outcomes.append(type(error).__name__)
        assert trio.current_time() - start <= 0.1001

    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        async with trio.open_nursery() as askers:
            for _ in range(200):
                askers.start_soon(ask)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert outcomes.count("MailboxFull") >= 190
    assert outcomes.count("ok") >= 4
    assert actor.handled <= outcomes.count("ok") + 1  # what expired in the queue never ran


async def test_close_refuses_what_waits_and_what_comes(
    box: Mailbox[Message], nursery: trio.Nursery, autojump_clock: object
) -> None:
    async def asker() -> None:
        with pytest.raises(ActorStopped):
            await box.ask(Add(1), timeout=5)

    async with trio.open_nursery() as inner:
        for _ in range(6):  # two of them wait for room
            inner.start_soon(asker)
        await trio.testing.wait_all_tasks_blocked()
        box.close()
    with pytest.raises(ActorStopped):
        await box.tell(Reset())
    assert box.statistics().depth == 0


async def test_drain_finishes_what_was_taken_and_takes_nothing_new(
    box: Mailbox[Message], autojump_clock: object
) -> None:
    answers: list[int] = []

    async def asker() -> None:
        answers.append(await box.ask(Add(1), timeout=60))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(asker)
        await trio.testing.wait_all_tasks_blocked()
        box.drain()
        with pytest.raises(NotReady, match="draining"):
            await box.ask(Add(1), timeout=60)
        with pytest.raises(NotReady, match="draining"):
            box.tell_nowait(Reset())
        await Counter(box).run()  # returns by itself
    assert sorted(answers) == [1, 2, 3]


async def test_late_answers_from_the_actors_own_nursery_are_drained_too(
    box: Mailbox[Message], counter: Counter, nursery: trio.Nursery, autojump_clock: object
) -> None:
    async with trio.open_nursery() as askers:
        askers.start_soon(lambda: box.ask(Later(5), timeout=60))
        await trio.testing.wait_all_tasks_blocked()
        box.drain()


async def test_crash_in_the_background_tells_every_asker_at_once(
    box: Mailbox[Message], autojump_clock: object
) -> None:
    async def ask(message: Ask[None]) -> None:
        with pytest.raises(ActorStopped):  # from inside, a crash beside it is a cancellation
            await box.ask(message, timeout=60)
        assert trio.current_time() - start == pytest.approx(13)

    start = trio.current_time()
    with pytest.RaisesGroup(pytest.RaisesGroup(ZeroDivisionError)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, Later(20))
            nursery.start_soon(ask, Later(13))
            await trio.testing.wait_all_tasks_blocked()
            await Counter(box).run()


async def test_stop_tells_the_asker_in_progress_at_once(
    box: Mailbox[Message], autojump_clock: object
) -> None:
    async def ask() -> None:
        with pytest.raises(ActorStopped):
            await box.ask(Sleep(50), timeout=60)
        assert trio.current_time() - start == pytest.approx(2)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        with trio.move_on_after(2):
            await Counter(box).run()


async def test_statistics_are_a_frozen_record(
    box: Mailbox[Message], counter: Counter, autojump_clock: object
) -> None:
    for _ in range(3):
        box.tell_nowait(Reset())
    before = box.statistics()
    await box.ask(Add(1), timeout=1)
    after = box.statistics()
    assert (before.name, before.capacity, before.peak) == ("counter", 4, before.depth)
    assert (after.depth, after.peak, after.received) == (0, before.depth + 1, 4)
    with pytest.raises(AttributeError):
        after.depth = 1  # type: ignore[misc]


async def test_an_ask_that_is_only_told_leaves_nothing_behind(
    box: Mailbox[Message], counter: Counter, autojump_clock: object
) -> None:
    for _ in range(100):
        await box.tell(Add(1))
    assert await box.ask(Add(0), timeout=1) == 100
    assert not box._taken
