"""Process lifecycle: signals in, ordered shutdown out, systemd told about both.

Every way out is bounded: before anything that may hang a daemon thread is started that ends the
process by itself, because trio waits for ever for a task in a thread or behind a shield.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from r3mes.actors.kernel.escalation import on_stuck
from r3mes.actors.kernel.supervisor import Supervisor
from r3mes.errors import R3mesError

logger = logging.getLogger(__name__)

GRACE = 1.0  # seconds left to a process that should have ended by now, before it is ended
FAILED = R3mesError.kind.exit  # 70, EX_SOFTWARE: systemd starts the node again


def run(main: Callable[[], Awaitable[int]]) -> int:
    """Run ``main`` under trio; its result is the exit status, whatever threads are left over."""
    status = trio.run(main)
    hard_exit_after(GRACE, status)
    return status


async def serve(root: Supervisor, *, drain_timeout: float = 20.0) -> int:
    """Run ``root`` until SIGTERM or SIGINT, even one that arrives during start-up.

    The first signal drains, for ``drain_timeout`` seconds at most; a second one stops at once.

    Returns:
        The exit status: 0 after the first signal, 128 + signal number after a second, else that
        of the error which ended ``root`` (`R3mesError.kind`, 70 for what nobody foresaw).
    """
    on_stuck(lambda name: hard_exit_after(GRACE, FAILED))
    stop = _Stop(root, drain_timeout)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop.heed, signals)
            status = await _live(root, stop)
            nursery.cancel_scope.cancel()
    root.close()
    return status or stop.status


async def _live(root: Supervisor, stop: _Stop) -> int:
    try:
        with stop.scope:
            await root.run(task_status=stop)
    except R3mesError as error:
        logger.error("%s", error)  # noqa: TRY400  says what and why; the trace says no more
        return error.kind.exit
    except Exception:  # crash boundary: the last one
        logger.exception("the node failed")
        return FAILED
    return 0


class _Stop:
    """How ``root`` is stopped; its task status, because that depends on whether it is ready."""

    def __init__(self, root: Supervisor, drain_timeout: float) -> None:
        self.scope = trio.CancelScope()
        self.status = 0
        self._root = root
        self._drain_timeout = drain_timeout
        self._ready = False

    def started(self, value: None = None) -> None:
        self._ready = True
        notify("READY=1", "STATUS=serving")

    async def heed(self, signals: AsyncIterator[int]) -> None:
        await anext(signals)
        notify("STOPPING=1", "STATUS=finishing what was accepted")
        self._drain()
        second = await anext(signals)
        self.status = 128 + second
        self.scope.cancel()
        hard_exit_after(GRACE, self.status)

    def _drain(self) -> None:
        patience = self._drain_timeout if self._ready else 0.0
        self.scope.deadline = trio.current_time() + patience
        self._root.drain()
        hard_exit_after(patience + self._root.stop_timeout + GRACE, FAILED)


def hard_exit_after(seconds: float, status: int) -> None:
    """End the process with ``status`` in ``seconds`` if it still lives then, whatever it does."""

    def end() -> None:
        time.sleep(seconds)
        os.write(2, f"r3mes: did not end by itself in {seconds:g} s, exit {status}\n".encode())
        os._exit(status)

    threading.Thread(target=end, name="hard-exit", daemon=True).start()


def notify(*lines: str) -> None:
    """Tell systemd (``Type=notify``); a no-op elsewhere.  Source: sd_notify(3).

    The only environment variable that is not configuration: systemd sets it, not a person.
    """
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1))
