"""A loop that stands still ends the process; one that is only stopped from outside does not."""

from __future__ import annotations

import signal
import time

import pytest

from tests.node.test_lifecycle import line, process

pytestmark = pytest.mark.slow

PATIENT = """
from r3mes.node import loop_watch
loop_watch.PATIENCE_S = 0.6
"""


def test_a_blocked_loop_exits_with_70_and_says_where_it_stands() -> None:
    body = """
def where_it_hangs():
    say("blocked")
    threading.Event().wait()

async def blocks(*, task_status):
    task_status.started()
    where_it_hangs()

node(ChildSpec("blocks", blocks))
"""
    with process(PATIENT + body) as popen:
        assert line(popen) == "blocked"
        assert popen.wait(30) == 70
        assert popen.stderr is not None
        said = popen.stderr.read()
    assert "the event loop has not turned for 0.6 s, exit 70" in said
    assert "thread MainThread" in said
    assert "where_it_hangs" in said


def test_the_log_may_be_what_hangs() -> None:
    body = """
import logging

class Hangs(logging.Handler):
    def emit(self, record):
        threading.Event().wait()

logging.getLogger().addHandler(Hangs())

async def blocks(*, task_status):
    task_status.started()
    say("blocked")
    logging.getLogger().error("never written")

node(ChildSpec("blocks", blocks))
"""
    with process(PATIENT + body) as popen:
        assert line(popen) == "blocked"
        assert popen.wait(30) == 70


def test_a_process_that_was_stopped_for_long_goes_on() -> None:
    with process(PATIENT + 'node(ChildSpec("lives", lives))') as popen:
        assert line(popen) == "ready"
        popen.send_signal(signal.SIGSTOP)
        time.sleep(1.5)  # far beyond the patience
        popen.send_signal(signal.SIGCONT)
        time.sleep(0.5)  # several ticks, in which it could die
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(30) == 0
