"""Repeated lines are counted, full disks borne, and the last lines kept for readers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from r3mes.node.logs.lines import as_message
from r3mes.node.logs.outlet import Outlet, Stderr
from r3mes.node.logs.repeats import BURST, KNOWN, WINDOW_S
from r3mes.node.logs.ring import Ring


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Written(Stderr):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def write(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.fixture
def ring() -> Ring:
    return Ring(capacity=10)


@pytest.fixture
def outlet(written: Written, ring: Ring, clock: Clock) -> Outlet:
    return Outlet(as_message, written, ring, clock)


@pytest.fixture
def logger(outlet: Outlet) -> logging.Logger:
    logger = logging.Logger("noisy")
    logger.addHandler(outlet)
    return logger


def test_the_same_line_is_written_a_few_times_then_counted(
    logger: logging.Logger, written: Written, ring: Ring, clock: Clock
) -> None:
    for _ in range(1337):
        logger.error("the disk is full")
    logger.error("something else")
    assert written.lines == ["noisy: the disk is full"] * BURST + ["noisy: something else"]
    clock.now += WINDOW_S
    logger.error("the disk is full")
    assert (
        written.lines[-1]
        == f"noisy: the disk is full ({1337 - BURST} more like this were left out)"
    )
    assert [line.message for line in ring.after()][-2:] == [
        "something else",
        written.lines[-1].removeprefix("noisy: "),
    ]


def test_a_line_that_stops_coming_is_accounted_for(
    logger: logging.Logger, outlet: Outlet, written: Written, clock: Clock
) -> None:
    for _ in range(BURST + 2):
        logger.warning("again")
    outlet.tell_repeats()
    assert len(written.lines) == BURST
    clock.now += WINDOW_S
    outlet.tell_repeats()
    outlet.tell_repeats()
    assert written.lines[BURST:] == ["noisy: again (2 more like this were left out)"]


def test_debugging_is_not_limited(logger: logging.Logger, written: Written) -> None:
    for _ in range(10):
        logger.debug("step")
    assert len(written.lines) == 10


def test_what_is_remembered_is_bounded(logger: logging.Logger, outlet: Outlet) -> None:
    for number in range(KNOWN + 100):
        logger.info("line %d", number)
    assert len(outlet._repeats._seen) == KNOWN


def test_a_full_disk_loses_lines_and_nothing_else(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    stderr = Stderr(full)
    for _ in range(3):
        stderr.write("no room")
    file = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    os.dup2(file, full)  # room again
    stderr.write("room")
    stderr.write("more")
    os.close(file)
    os.close(full)
    assert (tmp_path / "log").read_text() == (
        "(3 log lines were lost: they could not be written)\nroom\nmore\n"
    )


def test_the_ring_keeps_the_newest(ring: Ring) -> None:
    for number in range(1, 26):
        ring.add(0, "info", "r3mes", f"line {number}")
    assert [line.number for line in ring.after()] == list(range(16, 26))
    assert [line.number for line in ring.after(23)] == [24, 25]
    assert ring.after(25) == ring.after(99) == []


def test_long_lines_are_cut(ring: Ring) -> None:
    line = ring.add(0, "error", "r3mes", "x" * 10_000, "first" + "y" * 10_000 + "last")
    assert len(line.message) == len(line.trace) == 4096
    assert line.trace.endswith("last")


async def test_readers_wait_for_the_next_line_from_any_thread(ring: Ring) -> None:
    read: list[str] = []

    async def reader(stop_at: str) -> None:
        number = 0
        while not read or read[-1] != stop_at:
            for line in await ring.wait_after(number):
                number = line.number
                read.append(line.message)

    def add(message: str) -> Callable[[], object]:
        return lambda: ring.add(0, "info", "r3mes", message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader, "three")
        await wait_all_tasks_blocked()
        add("one")()
        await trio.to_thread.run_sync(add("two"))
        await trio.to_thread.run_sync(add("three"))
    assert read == ["one", "two", "three"]


async def test_a_reader_that_gave_up_leaves_nothing_behind(ring: Ring) -> None:
    with trio.move_on_after(0):
        await ring.wait_after(0)
    assert ring._waiting == []
