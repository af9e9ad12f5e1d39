"""Running a native library that recurses as deep as what it reads is nested.

A stack that overflows ends the process and cannot be caught, so such a call gets a thread whose
stack is large enough for anything that the caps on its input let through.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

R = TypeVar("R")

STACK_BYTES = 256 * 1024 * 1024
"""Address space, not memory: what is never reached is never taken."""
_sizing = threading.Lock()


class _Call(Generic[R]):
    def __init__(self, function: Callable[[], R]) -> None:
        self._function = function
        self._result: R
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:  # noqa: BLE001  raised again where it was called
            self._error = error

    def result(self) -> R:
        if self._error is not None:
            raise self._error
        return self._result


def on_deep_stack(function: Callable[[], R]) -> R:
    """What ``function`` returns, computed on a stack of `STACK_BYTES`; raises what it raises."""
    call = _Call(function)
    with _sizing:
        before = threading.stack_size(STACK_BYTES)
        try:
            thread = threading.Thread(target=call.run, daemon=True)
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    return call.result()
