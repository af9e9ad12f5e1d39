"""The end that nothing can hold up: a timer that ends the process by itself."""

from __future__ import annotations

import os
import threading
import time

import trio

from r3mes.errors import R3mesError

GRACE = 1.0
"""Seconds left to a process that should have ended by now, before it is ended."""
FAILED = R3mesError.kind.exit
"""70, EX_SOFTWARE: systemd starts the node again."""


def hard_exit_after(seconds: float, status: int) -> None:
    """End the process with ``status`` in ``seconds`` if it still lives then, whatever it does."""

    def end() -> None:
        time.sleep(seconds)
        os.write(2, f"r3mes: did not end by itself in {seconds:g} s, exit {status}\n".encode())
        os._exit(status)

    threading.Thread(target=end, name="hard-exit", daemon=True).start()


class Stop:
    """How the node itself asks for its end."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.drain = True

    def ask(self, *, drain: bool) -> None:
        """End soon: after the answers in flight, or with ``drain`` false at once."""
        self.drain = drain
        self.asked.set()
