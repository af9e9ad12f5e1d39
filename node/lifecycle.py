"""Process lifecycle: signals in, ordered shutdown out, systemd told about both.

Every way out is bounded: before anything that may hang a daemon thread is started that ends the
process by itself, because trio waits for ever for a task in a thread or behind a shield.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import trio

from r3mes.actors.kernel.child import State
from r3mes.actors.kernel.escalation import on_stuck
from r3mes.actors.kernel.supervisor import Supervisor
from r3mes.errors import R3mesError
from r3mes.node.ending import FAILED, GRACE, Stop, hard_exit_after
from r3mes.node.heartbeat import Heartbeat
from r3mes.node.loop_watch import LoopWatch
from r3mes.node.systemd import extend, notify, reloading

logger = logging.getLogger(__name__)

STATUS_S = 2.0
"""How often the status line is looked at; it is sent when it has changed."""
ANSWER_S = 0.2
"""Between the node's wish to stop and its stop: the answer to whoever asked for it gets out."""
START_S = 30.0
"""What a node that is still starting asks for, again and again."""


@dataclass(frozen=True, slots=True)
class Handles:
    """Where the process can take hold of the node that it runs.

    Args:
        status: what the node does now, in a line, once it is up.
        heartbeat: run while the node is up; None if nobody is to be asked.
        reload: reads the configuration again; says what came of it in the log.
        stop: how the node itself asks for its end.
    """

    status: Callable[[], str] = lambda: "serving"
    heartbeat: Heartbeat | None = None
    reload: Callable[[], Awaitable[object]] | None = None
    stop: Stop = field(default_factory=Stop)


def run(main: Callable[[], Awaitable[int]]) -> int:
    """Run ``main`` under trio; its result is the exit status, whatever threads are left over."""
    status = trio.run(main)
    hard_exit_after(GRACE, status)
    return status


async def serve(
    root: Supervisor, *, drain_timeout: float = 20.0, handles: Handles | None = None
) -> int:
    """Run ``root`` until SIGTERM or SIGINT, even one that arrives during start-up.

    The first signal drains, for ``drain_timeout`` seconds at most; a second one stops at once.
    SIGHUP reloads, or drains when the terminal that the node was started from has gone.

    Returns:
        The exit status: 0 after the first signal, 128 + signal number after a second, else that
        of the error which ended ``root`` (`R3mesError.kind`, 70 for what nobody foresaw).
    """
    on_stuck(lambda name: hard_exit_after(GRACE, FAILED))
    process = _Process(root, drain_timeout, handles or Handles())
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(LoopWatch().run)
            nursery.start_soon(process.heed, signals)
            nursery.start_soon(process.heed_itself)
            nursery.start_soon(process.tell_systemd)
            nursery.start_soon(process.beat)
            status = await _live(root, process)
            nursery.cancel_scope.cancel()
    root.close()
    return status or process.status


async def _live(root: Supervisor, process: _Process) -> int:
    try:
        with process.scope:
            await root.run(task_status=process)
    except R3mesError as error:
        logger.error("%s", error)  # noqa: TRY400  says what and why; the trace says no more
        return error.kind.exit
    except Exception:  # crash boundary: the last one
        logger.exception("the node failed")
        return FAILED
    return 0


class _Process:
    """What goes on beside ``root``; its task status, because it matters whether it is ready."""

    def __init__(self, root: Supervisor, drain_timeout: float, handles: Handles) -> None:
        self.scope = trio.CancelScope()
        self.status = 0
        self._root, self._drain_timeout, self._handles = root, drain_timeout, handles
        self._ready, self._stopping = trio.Event(), trio.Event()
        self._had_terminal = _terminal()

    def started(self, value: None = None) -> None:
        self._ready.set()
        notify("READY=1", f"STATUS={self._line()}")

    async def heed(self, signals: AsyncIterator[int]) -> None:
        async with trio.open_nursery() as nursery:
            async for number in signals:
                if number == signal.SIGHUP and not self._hung_up():
                    # A file that cannot be read to its end must not keep the node from stopping.
                    nursery.start_soon(self._reload)
                elif not self._stopping.is_set():
                    self._drain()
                else:
                    self.status = 128 + number
                    self.scope.cancel()
                    hard_exit_after(GRACE, self.status)

    async def heed_itself(self) -> None:
        """Stop when the node asks for it."""
        stop = self._handles.stop
        await stop.asked.wait()
        await trio.sleep(ANSWER_S)
        if not self._stopping.is_set():
            self._drain()
        if not stop.drain:
            self.scope.cancel()

    def _hung_up(self) -> bool:
        return self._had_terminal and not _terminal()

    async def _reload(self) -> None:
        if self._handles.reload is None or self._stopping.is_set():
            return
        notify(reloading())
        try:
            await self._handles.reload()
        except R3mesError:
            pass  # the log says what is wrong; the node goes on as it was
        except Exception:  # crash boundary: a signal must not end the node
            logger.exception("reloading failed")
        if self._ready.is_set():
            notify("READY=1", f"STATUS={self._line()}")

    def _drain(self) -> None:
        self._stopping.set()
        patience = self._drain_timeout if self._ready.is_set() else 0.0
        most = patience + self._root.stop_timeout + GRACE
        logger.info("stopping: what was accepted may take %g s; again stops at once", patience)
        notify("STOPPING=1", "STATUS=finishing what was accepted", extend(most + GRACE))
        self.scope.deadline = trio.current_time() + patience
        self._root.drain()
        hard_exit_after(most, FAILED)

    async def tell_systemd(self) -> None:
        """Keep the status line true; while the node starts, ask for the time that it takes."""
        said = ""
        while not self._stopping.is_set():
            line = self._line()
            lines = [f"STATUS={line}"] if line != said else []
            if not self._ready.is_set():
                lines.append(extend(START_S))
            if lines:
                notify(*lines)
            said = line
            await trio.sleep(STATUS_S)

    def _line(self) -> str:
        if self._ready.is_set():
            return self._handles.status()
        waits = [one.name for one in self._root.statistics() if one.state is State.STARTING]
        return f"starting {', '.join(waits)}".rstrip()

    async def beat(self) -> None:
        """Have the parts asked while the node is up; a node that stops is not watched."""
        await self._ready.wait()
        async with trio.open_nursery() as nursery:
            if self._handles.heartbeat is not None:
                nursery.start_soon(self._handles.heartbeat.run)
            await self._stopping.wait()
            nursery.cancel_scope.cancel()


def _terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()
