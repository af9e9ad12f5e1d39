"""Cancelled calls of the store: nothing is stuck, nothing is half done, nothing acked is lost."""

import random
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio
import trio.testing

from r3mes.actors.store import Connection, Store
from r3mes.actors.store.writer import Write
from r3mes.errors import AskTimeout

CALLS = 2000


def pair(number: int, connection: Connection) -> None:
    connection.execute("INSERT INTO peer VALUES (?, '[]', ?)", (f"a{number}", number))
    connection.execute("INSERT INTO peer VALUES (?, '[]', ?)", (f"b{number}", number))


async def test_random_cancels_under_load(store: Store) -> None:
    rng = random.Random(7)  # noqa: S311  for a test
    acked: list[int] = []

    async def caller(numbers: range) -> None:
        for number in numbers:
            with trio.move_on_after(rng.choice((0, 1e-4, 1e-3, 5e-3))):
                await store.tx(partial(pair, number))
                acked.append(number)

    async with trio.open_nursery() as nursery:
        for first in range(16):
            nursery.start_soon(caller, range(first, CALLS, 16))
    counts = await store.read(
        lambda c: dict(c.execute("SELECT last_seen_ms, count(*) FROM peer GROUP BY 1"))
    )
    assert set(counts.values()) <= {2}
    assert set(acked) <= set(counts)
    assert acked
    assert len(acked) < CALLS
    assert store.problem() is None


async def test_a_call_that_timed_out_in_the_queue_is_not_run(store: Store) -> None:
    """The writer is held up; who gives up meanwhile finds nothing written."""
    hold = trio.Event()
    ran: list[Connection] = []

    def slow(_: Connection) -> None:
        trio.from_thread.run(hold.wait, trio_token=token)

    token = trio.lowlevel.current_trio_token()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.tx, slow)
        await trio.testing.wait_all_tasks_blocked()
        try:
            await store.tx(ran.append, timeout=0.01)
        except AskTimeout:
            hold.set()
    await store.tx(lambda _: None)
    assert hold.is_set()
    assert ran == []


async def test_of_a_batch_that_gathered_only_the_living_are_run(store: Store) -> None:
    hold = trio.Event()
    ran: list[str] = []
    token = trio.lowlevel.current_trio_token()

    def slow(_: Connection) -> None:
        trio.from_thread.run(hold.wait, trio_token=token)

    async with trio.open_nursery() as nursery:
        for fn in (slow, lambda _: ran.append("first"), lambda _: ran.append("gave up")):
            scope = trio.CancelScope()
            nursery.start_soon(call_in, scope, partial(store.tx, fn))
            await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        hold.set()
    assert ran == ["first"]


async def call_in(scope: trio.CancelScope, call: Callable[[], Awaitable[object]]) -> None:
    with scope:
        await call()


async def test_a_message_taken_up_in_the_moment_of_a_stop_is_still_done(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ran: list[Connection] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        await trio.testing.wait_all_tasks_blocked()
        store.mailbox.tell_nowait(Write(ran.append))
        nursery.cancel_scope.cancel()
    assert len(ran) == 1


async def test_the_writer_stopped_in_a_batch_still_answers(tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    hold = trio.Event()
    answers: list[str] = []
    token = trio.lowlevel.current_trio_token()

    def held(_: Connection) -> str:
        trio.from_thread.run(hold.wait, trio_token=token)
        return "done"

    async def call() -> None:
        answers.append(await other.tx(held))

    async with trio.open_nursery() as callers, trio.open_nursery() as actors:
        await actors.start(other.run)
        callers.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        actors.cancel_scope.cancel()
        hold.set()
    assert answers == ["done"]
