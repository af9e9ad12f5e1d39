"""aiosqlite driven from trio, without any asyncio loop.

aiosqlite 0.22 is one worker thread and a queue of (future, callable).  Its only use of asyncio is
to make that future and to call ``future.get_loop().call_soon_threadsafe(callback, future, value)``.
Here the thread gets a future of ours, whose "loop" is the running trio.  Everything else of
aiosqlite (cursors, ``execute``, ``backup``) stays as it is.  What we rely on of its private parts
is pinned to ``>=0.22,<0.23`` and held by ``tests/actors/store/test_trio_connection.py``.

The rule that makes cancellation safe: **a queued call is never abandoned**.  It is checked before
it is queued, and then its outcome is awaited come what may, so no later statement can meet a
transaction that nobody ended.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import aiosqlite
import outcome
import trio
from aiosqlite.core import _STOP_RUNNING_SENTINEL

R = TypeVar("R")

PROGRESS_STEPS = 100
"""SQLite's virtual machine instructions between two looks at the stop flag of a read."""

logging.getLogger("aiosqlite").setLevel(logging.INFO)  # at DEBUG it prints every parameter


class ConnectionClosed(ValueError):
    """The connection was closed (or never opened); nothing was queued."""


class _TrioLoop:
    """As much of an asyncio loop as aiosqlite's thread asks for."""

    __slots__ = ("_token",)

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> None:
        with suppress(trio.RunFinishedError):  # trio has ended: nobody is left to read it
            self._token.run_sync_soon(callback, *args)


class TrioFuture:
    """The result of one queued call; awaited by the one task that queued it."""

    __slots__ = ("_loop", "_result", "_task")

    def __init__(self, loop: _TrioLoop) -> None:
        self._loop = loop
        self._task: trio.lowlevel.Task | None = None
        self._result: outcome.Outcome[Any] | None = None

    def get_loop(self) -> _TrioLoop:
        return self._loop

    def done(self) -> bool:
        return self._result is not None

    def set_result(self, value: object) -> None:
        self._set(outcome.Value(value))

    def set_exception(self, error: BaseException) -> None:
        self._set(outcome.Error(error))

    def _set(self, result: outcome.Outcome[Any]) -> None:
        self._result = result
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    async def wait(self, on_cancel: Callable[[], None] | None = None) -> Any:
        """Wait for the outcome; a cancel calls ``on_cancel`` (once) and goes on waiting."""

        def refuse_to_abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            if on_cancel is not None:
                on_cancel()
            return trio.lowlevel.Abort.FAILED

        if self._result is None:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(refuse_to_abort)
        assert self._result is not None  # noqa: S101  set before the task is rescheduled
        return self._result.unwrap()

    def __await__(self) -> Generator[Any, None, Any]:
        return self.wait().__await__()


class TrioConnection(aiosqlite.Connection):
    """One SQLite connection in a thread of its own; to be made and used inside trio."""

    def __init__(self, connector: Callable[[], sqlite3.Connection], *, name: str) -> None:
        super().__init__(connector, iter_chunk_size=64)
        self._loop = _TrioLoop(trio.lowlevel.current_trio_token())
        self._thread.name = name
        self._thread.daemon = True  # must not keep a process alive that wants to end

    async def run(self, fn: Callable[[sqlite3.Connection], R]) -> R:
        """Run ``fn`` in the connection's thread: one hop for one whole transaction.

        A cancel is felt before ``fn`` is queued, or else after its end, never in between.
        """
        result: R = await self._execute(lambda: fn(self._conn))
        return result

    async def run_stoppable(self, fn: Callable[[sqlite3.Connection], R]) -> R:
        """Like `run`, but a cancel interrupts SQLite instead of waiting for the end of ``fn``."""
        await self._checkpoint()
        connection, stopped = self._conn, False

        def watched() -> R:
            # interrupt() does nothing between two statements; this flag catches the next one
            connection.set_progress_handler(lambda: stopped, PROGRESS_STEPS)
            try:
                return fn(connection)
            finally:
                connection.set_progress_handler(None, 0)

        def stop() -> None:
            nonlocal stopped
            stopped = True
            connection.interrupt()

        try:
            result: R = await self._queue(watched).wait(stop)
        except sqlite3.OperationalError:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise
        return result

    def interrupt_now(self) -> None:
        """Interrupt what runs in the thread, if anything."""
        if self._connection is not None:
            self._connection.interrupt()

    async def _checkpoint(self) -> None:
        """The last moment to cancel; what is queued behind a stop would never be answered."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._running or self._connection is None:
            raise ConnectionClosed("the connection is closed")

    def _queue(self, call: Callable[[], object]) -> TrioFuture:
        future = TrioFuture(self._loop)
        self._tx.put_nowait((future, call))  # type: ignore[arg-type]  # a trio future instead
        return future

    # What aiosqlite does with asyncio, done with trio.

    def __await__(self) -> Generator[Any, None, TrioConnection]:
        self._thread.start()
        return self._connect().__await__()

    async def __aenter__(self) -> TrioConnection:
        return await self

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        await self._checkpoint()
        return await self._queue(partial(fn, *args, **kwargs)).wait()

    async def _connect(self) -> TrioConnection:
        if self._connection is None:
            try:
                self._connection = await self._queue(self._connector).wait()
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> TrioFuture:  # type: ignore[override]  # a trio future instead
        self._running = False
        return self._queue(self._close_and_stop)

    def _close_and_stop(self) -> object:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        return _STOP_RUNNING_SENTINEL

    async def close(self) -> None:
        """End what is queued and close; not cancellable, as a half-closed connection is no use."""
        if self._connection is not None:
            await self.stop().wait()
