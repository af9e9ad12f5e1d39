"""Running somebody else's Python in a thread, with an end to it.

A chat template may loop for ever.  A thread cannot be killed, but an exception can be raised in
it (``PyThreadState_SetAsyncExc``), which ends anything that is made of Python instructions.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

R = TypeVar("R")


class _Interrupted(BaseException):  # not an Exception: the code that runs must not catch it
    pass


class _Call(Generic[R]):
    """One call in a thread, which can be ended as long as it runs."""

    def __init__(self, function: Callable[[], R]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._thread: int | None = None  # while it runs

    def run(self) -> R:
        with self._lock:
            self._thread = threading.get_ident()
        try:
            return self._function()
        finally:
            with self._lock:
                self._thread = None

    def interrupt(self) -> None:
        with self._lock:
            if self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(_Interrupted)
                )


async def run_interruptibly(
    function: Callable[[], R], *, timeout: float, limiter: trio.CapacityLimiter
) -> R:
    """What ``function`` returns, computed in a thread.

    Args:
        function: plain Python; a long call into C is interrupted only when it returns.
        timeout: seconds, waiting for the limiter included.
        limiter: bounds the threads.

    Raises:
        trio.TooSlowError: it took longer; it is being ended.
    """
    call = _Call(function)
    try:
        with trio.fail_after(timeout):
            return await trio.to_thread.run_sync(call.run, abandon_on_cancel=True, limiter=limiter)
    finally:
        call.interrupt()
