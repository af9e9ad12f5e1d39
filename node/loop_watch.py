"""Ends a process whose event loop has stopped turning: something blocks it, and nothing else can.

A thread counts its own ticks without a sign of the loop.  It reads no clock: whatever stops the
whole process, a debugger or a machine that sleeps, stops the thread as well and is no reason to
die.  Code that holds the interpreter's lock stops it too; then systemd's watchdog is left.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback

import trio

from r3mes.node.ending import FAILED, GRACE, hard_exit_after

logger = logging.getLogger(__name__)

PATIENCE_S = 30.0
"""How long the loop may stand still."""
TICK_S = 1.0


class LoopWatch:
    """Watches the loop that `run` runs in, as long as it does."""

    def __init__(self) -> None:
        self._signs = 0
        self._over = threading.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Give signs until cancelled."""
        tick_s = min(TICK_S, PATIENCE_S / 4)
        looped = threading.get_ident()
        watch = threading.Thread(
            target=self._watch, args=(looped, tick_s), name="loop-watch", daemon=True
        )
        watch.start()
        task_status.started()
        try:
            while True:
                self._signs += 1
                await trio.sleep(tick_s)
        finally:
            self._over.set()

    def _watch(self, looped: int, tick_s: float) -> None:
        seen, still = 0, 0
        while not self._over.wait(tick_s):
            still = still + 1 if self._signs == seen else 0
            seen = self._signs
            if still * tick_s >= PATIENCE_S:
                _end(looped)


def _end(looped: int) -> None:
    hard_exit_after(GRACE, FAILED)  # writing a log line may block as well
    logger.critical(
        "the event loop has not turned for %g s, exit %d; it stands at\n%s",
        PATIENCE_S,
        FAILED,
        _stacks(looped),
    )
    os._exit(FAILED)


def _stacks(looped: int) -> str:
    """Where every thread is, the loop's first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sorted(sys._current_frames().items(), key=lambda item: item[0] != looped)
    return "\n".join(
        f"thread {names.get(ident, '?')}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in frames
        if ident != threading.get_ident()
    )
