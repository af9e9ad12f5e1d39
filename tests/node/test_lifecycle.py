"""How the process ends: exit statuses, signals, drain, the hard-exit timer.  Real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from r3mes.actors.kernel.child import ChildSpec
from r3mes.actors.kernel.supervisor import Supervisor
from r3mes.errors import ConfigError, PortInUse
from r3mes.node.lifecycle import serve

PROLOGUE = """
import sys, threading, trio, trio.testing
from dataclasses import dataclass
from r3mes.actors.kernel.actor import Actor
from r3mes.actors.kernel.backoff import Backoff
from r3mes.actors.kernel.child import ChildSpec
from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.actors.kernel.supervisor import Supervisor
from r3mes.errors import R3mesError
from r3mes.node import lifecycle

def say(text):
    print(text, flush=True)

def node(*specs, drain_timeout=20.0, **how):
    root = Supervisor("root", specs, **how)
    sys.exit(lifecycle.run(lambda: lifecycle.serve(root, drain_timeout=drain_timeout)))

async def lives(*, task_status):
    task_status.started()
    await trio.testing.wait_all_tasks_blocked()  # until the root is ready too
    say("ready")
    await trio.sleep_forever()
"""


@contextmanager
def process(body: str) -> Iterator[subprocess.Popen[str]]:
    """A node that runs ``body``; it is ended at the latest when the test is."""
    popen = subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + body],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield popen
    finally:
        popen.kill()
        popen.communicate()


def line(popen: subprocess.Popen[str]) -> str:
    assert popen.stdout is not None
    return popen.stdout.readline().strip()


@pytest.mark.slow
def test_a_reload_that_hangs_does_not_keep_the_node_from_stopping() -> None:
    body = """
async def reload():
    say("reading")
    await trio.sleep_forever()

root = Supervisor("root", [ChildSpec("lives", lives)])
handles = lifecycle.Handles(reload=reload)
sys.exit(lifecycle.run(lambda: lifecycle.serve(root, handles=handles)))
"""
    with process(body) as popen:
        assert line(popen) == "ready"
        popen.send_signal(signal.SIGHUP)
        assert line(popen) == "reading"
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(20) == 0


@pytest.mark.slow
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_with_0(sig: signal.Signals) -> None:
    """Ten are queued, each takes 50 ms; five come too late; all ten are answered."""
    body = """
@dataclass(frozen=True, slots=True)
class Job(Ask[int]):
    number: int

class Works(Actor[Job]):
    async def handle(self, job):
        await trio.sleep(0.05)
        job.reply(job.number)

box = Mailbox("works")

async def works(*, task_status):
    await Works(box).run(task_status=task_status)

async def ask(number):
    try:
        say(f"ok {await box.ask(Job(number), timeout=10)}")
    except R3mesError as error:
        say(f"{error.kind.code} {number}")

class Door:
    def drain(self):
        box.drain()
        trio.lowlevel.spawn_system_task(ask, 10)
        asking.cancel_scope.cancel()
    def close(self):
        pass

async def asks(*, task_status):
    global asking
    async with trio.open_nursery() as asking:
        for number in range(10):
            trio.lowlevel.spawn_system_task(ask, number)
        task_status.started()
        await lives(task_status=trio.TASK_STATUS_IGNORED)
node(ChildSpec("works", works, intake=box), ChildSpec("asks", asks, intake=Door()))
"""
    with process(body) as popen:
        said = [line(popen)]
        while "ready" not in said:
            said.append(line(popen))
        popen.send_signal(sig)
        assert popen.wait(30) == 0
        assert popen.stdout is not None
        said += popen.stdout.read().split("\n")
    assert [f"ok {number}" for number in range(10)] == sorted(x for x in said if x[:2] == "ok")
    assert "not_ready 10" in said


@pytest.mark.slow
def test_drain_has_a_deadline() -> None:
    body = """
class Endless:
    def drain(self): say("draining")
    def close(self): say("closed")

node(ChildSpec("endless", lives, intake=Endless()), drain_timeout=0.2)
"""
    with process(body) as popen:
        assert line(popen) == "ready"
        popen.send_signal(signal.SIGTERM)
        assert line(popen) == "draining"
        assert line(popen) == "closed"
        assert popen.wait(30) == 0


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once() -> None:
    body = """
class Endless:
    def drain(self): say("draining")
    def close(self): pass

node(ChildSpec("endless", lives, intake=Endless()), drain_timeout=600)
"""
    with process(body) as popen:
        assert line(popen) == "ready"
        popen.send_signal(signal.SIGINT)
        assert line(popen) == "draining"
        popen.send_signal(signal.SIGINT)
        assert popen.wait(30) == 128 + signal.SIGINT


@pytest.mark.slow
def test_a_signal_during_a_slow_start_stops_cleanly() -> None:
    body = """
async def slow(*, task_status):
    say("starting")
    try:
        await trio.sleep(600)
    finally:
        say("cleaned up")

node(ChildSpec("slow", slow, ready_timeout=600))
"""
    with process(body) as popen:
        assert line(popen) == "starting"
        popen.send_signal(signal.SIGTERM)
        assert line(popen) == "cleaned up"
        assert popen.wait(30) == 0


CRASHES = """
async def crashes(*, task_status):
    task_status.started()
    raise ZeroDivisionError

crasher = ChildSpec("crashes", crashes, backoff=Backoff(0.0))
"""


@pytest.mark.slow
def test_root_that_gives_up_exits_with_70() -> None:
    with process(CRASHES + "node(ChildSpec('lives', lives), crasher, intensity=3)") as popen:
        assert popen.wait(30) == 70
        assert popen.stderr is not None
        assert "4 failures within 30 s, the last of crashes" in popen.stderr.read()


STUCK = {
    "in a thread": "await trio.to_thread.run_sync(threading.Event().wait)",
    "behind a shield": "with trio.CancelScope(shield=True): await trio.sleep_forever()",
}


@pytest.mark.slow
@pytest.mark.parametrize("where", STUCK)
def test_pitfall_05_giving_up_with_a_stuck_child_exits_with_70(where: str) -> None:
    """Below a nested supervisor: nobody above would ever learn that it does not end."""
    body = f"""
async def stuck(*, task_status):
    task_status.started()
    {STUCK[where]}

inner = Supervisor("inner", [ChildSpec("stuck", stuck, stop_timeout=0.3), crasher], intensity=0)
node(inner.as_child(), ChildSpec("lives", lives))
"""
    with process(CRASHES + body) as popen:
        assert popen.wait(30) == 70
        assert popen.stderr is not None
        errors = popen.stderr.read()
    assert "stuck did not stop in 0.3 s" in errors
    assert "did not end by itself in 1 s, exit 70" in errors


@pytest.mark.slow
def test_a_thread_left_over_does_not_hold_the_process() -> None:
    body = """
threading.Thread(target=threading.Event().wait).start()

async def fails(*, task_status):
    raise ZeroDivisionError

node(ChildSpec("fails", fails))
"""
    with process(body) as popen:
        assert popen.wait(30) == 70


@pytest.mark.parametrize(
    ("error", "status"), [(ConfigError("x"), 78), (PortInUse("x"), 75), (KeyError("x"), 70)]
)
async def test_a_first_start_that_fails_tells_the_exit_status(
    error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(*, task_status: trio.TaskStatus[None]) -> None:
        raise error

    inner = Supervisor("inner", [ChildSpec("fails", fails)])
    assert await serve(Supervisor("root", [inner.as_child()])) == status
    assert "x" in caplog.text
    assert len(caplog.records) == 1, "told once"
