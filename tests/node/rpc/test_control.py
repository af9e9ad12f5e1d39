"""Draining, looking inside, logging more and stopping, on real parts in virtual time."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from r3mes.actors.doorway import Doorway
from r3mes.actors.kernel.canary import Canary
from r3mes.actors.kernel.child import ChildSpec
from r3mes.actors.kernel.mailbox import Mailbox
from r3mes.actors.kernel.supervisor import Supervisor
from r3mes.errors import NotReady
from r3mes.node.doors import Doors
from r3mes.node.ending import Stop
from r3mes.node.logs.levels import LogLevels
from r3mes.node.reload import Reloaded
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.methods.node_control import NodeControl
from r3mes.node.tasks import running_tasks
from tests.node.rpc.conftest import Caller


class Flaky:
    """Dies when it is told to."""

    def __init__(self) -> None:
        self.mailbox: Mailbox[str] = Mailbox("flaky", 4)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        async for message in self.mailbox:
            raise RuntimeError(message)


async def reloading() -> AsyncGenerator[Reloaded, None]:
    yield Reloaded(("log.level",), ("api.listen",))


@dataclass
class Parts:
    call: Caller
    door: Doorway
    doors: Doors
    flaky: Flaky
    stop: Stop
    levels: LogLevels


@pytest.fixture
async def parts(autojump_clock: object) -> AsyncIterator[Parts]:
    door, flaky, stop, levels = Doorway("requests"), Flaky(), Stop(), LogLevels()
    work = Supervisor("work", [ChildSpec("flaky", flaky.run, intake=flaky.mailbox)])
    root = Supervisor("root", [work.as_child(), ChildSpec("log-levels", levels.run)])
    reloads = reloading()
    doors = Doors([door, Doorway("requests of peers")])
    control = NodeControl(
        doors=doors,
        drain_seconds=30,
        tasks=lambda: running_tasks(root, Canary()),
        log_levels=levels,
        reload=reloads.__anext__,
        stop=stop,
    )
    async with trio.open_nursery() as inner:
        await inner.start(root.run)
        yield Parts(Caller(Dispatcher(control)), door, doors, flaky, stop, levels)
        inner.cancel_scope.cancel()


async def test_drain_waits_for_answers_in_flight_and_resume_lets_new_ones_in(
    parts: Parts, autojump_clock: object, nursery: trio.Nursery
) -> None:
    async def work(seconds: float) -> None:
        with parts.door.enter():
            await trio.sleep(seconds)

    nursery.start_soon(work, 5)
    nursery.start_soon(work, 60)
    await trio.testing.wait_all_tasks_blocked()
    assert await parts.call("node_drain", deadline_s=2) == {"in_flight": 2}
    with pytest.raises(NotReady), parts.door.enter():
        pass
    assert await parts.call("node_drain") == {"in_flight": 1}
    assert await parts.call("node_resume") is None
    with parts.door.enter():
        assert await parts.call("node_drain", deadline_s=0) == {"in_flight": 2}
    await parts.call("node_resume")
    nursery.cancel_scope.cancel()


async def test_resume_ends_the_wait_of_a_drain(
    parts: Parts, autojump_clock: object, nursery: trio.Nursery
) -> None:
    ended = trio.Event()

    async def drain() -> None:
        await parts.call("node_drain", deadline_s=3600)
        ended.set()

    with parts.door.enter():
        nursery.start_soon(drain)
        await trio.testing.wait_all_tasks_blocked()
        await parts.call("node_resume")
        with trio.fail_after(1):
            await ended.wait()


async def test_a_node_that_stops_does_not_resume(parts: Parts, autojump_clock: object) -> None:
    parts.doors.stop()
    assert (await parts.call("node_resume"))["code"] == -32030
    with pytest.raises(NotReady), parts.door.enter():
        pass


async def test_tasks_show_the_tree_with_restarts_and_mailboxes(
    parts: Parts, autojump_clock: object
) -> None:
    secret = "r3k_0123ABCD_" + "x" * 43
    await parts.flaky.mailbox.tell(f"it broke over {secret}")
    await trio.sleep(10)
    told = await parts.call("node_tasks")
    work, levels = told["tasks"]
    assert (work["name"], work["state"], levels["mailbox"]) == ("work", "ready", None)
    (flaky,) = work["children"]
    assert (flaky["state"], flaky["restarts"]) == ("ready", 1)
    assert "it broke" in flaky["last_error"]
    assert "x" * 43 not in str(told)
    assert flaky["mailbox"]["received"] == 1
    assert told["lag"]["samples"] == 0


@pytest.mark.parametrize("again", [False, True])
async def test_log_level_is_set_back_by_itself(
    parts: Parts, autojump_clock: object, again: bool
) -> None:
    name = "r3mes.node.tasks.test"
    logger = logging.getLogger(name)
    logger.setLevel(logging.WARNING)
    set_level = {"logger": name, "level": "debug"}
    assert await parts.call("node_setLogLevel", **set_level, ttl_s=100) == {"previous": "warning"}
    await trio.sleep(99)
    assert logger.level == logging.DEBUG
    if again:
        told = await parts.call("node_setLogLevel", **set_level, ttl_s=100)
        assert told == {"previous": "debug"}
        await trio.sleep(99)
        assert logger.level == logging.DEBUG
    await trio.sleep(2)
    assert logger.level == logging.WARNING


async def test_a_level_that_is_configured_later_is_not_set_back(
    parts: Parts, autojump_clock: object
) -> None:
    logger = logging.getLogger("r3mes")
    before = logger.level
    try:
        await parts.call("node_setLogLevel", level="debug", ttl_s=100)
        parts.levels.configure("error")
        await trio.sleep(200)
        assert logger.level == logging.ERROR
    finally:
        logger.setLevel(before)


@pytest.mark.parametrize("name", ["pjrpc", "", "root", "r3mes.there.is.none", "r3mesx", "httpx"])
async def test_loggers_of_others_stay_as_they_are(
    parts: Parts, autojump_clock: object, name: str
) -> None:
    told = await parts.call("node_setLogLevel", logger=name, level="debug")
    assert told["code"] == -32016
    assert name not in logging.Logger.manager.loggerDict or name in ("pjrpc", "httpx")


@pytest.mark.parametrize("params", [{"level": "loud"}, {}, {"level": "debug", "ttl_s": 0}])
async def test_nonsense_is_no_level(
    parts: Parts, autojump_clock: object, params: dict[str, Any]
) -> None:
    assert (await parts.call("node_setLogLevel", **params))["code"] == -32602


async def test_reload_says_what_it_took_over(parts: Parts, autojump_clock: object) -> None:
    told = await parts.call("node_reload")
    assert told == {"changed": ["log.level"], "needs_restart": ["api.listen"]}


async def test_shutdown_asks_for_the_end(parts: Parts, autojump_clock: object) -> None:
    assert await parts.call("node_shutdown", drain=False) is None
    assert parts.stop.asked.is_set()
    assert not parts.stop.drain
