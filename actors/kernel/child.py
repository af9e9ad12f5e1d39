"""One supervised child: how to run it, its present incarnation, and its record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

import trio

from r3mes.actors.kernel.backoff import Backoff
from r3mes.actors.kernel.escalation import report_stuck
from r3mes.actors.kernel.failure import real_error
from r3mes.errors import StartTimeout


class Restart(Enum):
    """When an ended child is restarted at all."""

    PERMANENT = auto()  # always
    TRANSIENT = auto()  # only after an error
    TEMPORARY = auto()  # never


class Intake(Protocol):
    """How work comes to a child: a mailbox, a nested supervisor, a server."""

    def drain(self) -> None:
        """Take nothing new; ``run`` returns when what was taken is done."""

    def close(self) -> None:
        """The child will not come back: refuse whatever still waits."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to run one child.

    Args:
        name: for logs and statistics.
        run: called with ``task_status``, on which it calls ``started()`` when it is ready; each
            call makes a fresh incarnation.
        restart: when to restart it after it ended.
        backoff: how long to wait before.
        ready_timeout: seconds from its start to ``started()``; later is one more failure.
        stop_timeout: seconds from its cancellation to its end; later it counts as stuck, which
            ends the process.
        intake: drained before the child is stopped, closed when it will not come back.
        fatal: errors that no restart cures; the supervisor gives up at once and raises them.
    """

    name: str
    run: Callable[..., Awaitable[None]]
    restart: Restart = Restart.PERMANENT
    backoff: Backoff = field(default_factory=Backoff)
    ready_timeout: float = 30.0
    stop_timeout: float = 5.0
    intake: Intake | None = None
    fatal: tuple[type[Exception], ...] = ()


class State(Enum):
    """What a child is doing."""

    WAITING = auto()  # for its turn, or for its backoff to pass
    STARTING = auto()
    READY = auto()
    STOPPING = auto()
    STOPPED = auto()  # it ended; if it is to be restarted it goes on to WAITING


@dataclass(frozen=True, slots=True)
class ChildStatistics:
    """A child at one moment.

    Args:
        name: of the child.
        state: what it is doing.
        restarts: incarnations after the first, since the supervisor began.
        last_error: ``repr`` of what it last died of; for logs and metrics, never for a peer.
        since: when it came into ``state``, on trio's clock in seconds.
    """

    name: str
    state: State
    restarts: int
    last_error: str | None
    since: float


class Child:
    """One child over all its incarnations."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.life: Life | None = None
        self.wanted = True  # False once it is not to be started again
        self.failures = 0  # in a row: what the backoff grows with
        self.restarts = 0
        self.last_error: BaseException | None = None
        self.enter(State.WAITING)

    def enter(self, state: State) -> None:
        """Note that the child is in ``state`` from now on."""
        self.state = state
        self.since = trio.current_time()

    def fail(self, life: Life) -> None:
        """Note that ``life`` came to its end unasked."""
        if life.ready_at is not None:
            lived = trio.current_time() - life.ready_at
            self.failures = 0 if lived >= self.spec.backoff.stable_after else self.failures
        self.failures += 1
        self.last_error = life.error

    def retire(self) -> None:
        """It will not come back: let nobody wait for it."""
        self.wanted = False
        if self.spec.intake is not None:
            self.spec.intake.close()

    def statistics(self) -> ChildStatistics:
        """The figures of this moment."""
        error = None if self.last_error is None else repr(self.last_error)
        return ChildStatistics(self.spec.name, self.state, self.restarts, error, self.since)


class Life:
    """One incarnation, in a task that no outside cancellation reaches: only `stop` ends it.

    An outside cancel would otherwise hit all children at once, and none in order.

    Args:
        child: whose incarnation it is.
        delay: seconds to wait before it starts.
        after: start only when this one is ready.
    """

    def __init__(self, child: Child, *, delay: float = 0.0, after: Life | None = None) -> None:
        self.child = child
        self.settled = trio.Event()  # ready, or ended before it was
        self.ended = trio.Event()
        self.ready_at: float | None = None
        self.error: BaseException | None = None
        self._scope = trio.CancelScope(shield=True)
        self._delay = delay
        self._after = after

    async def run(self, nursery: trio.Nursery, on_end: Callable[[Life], None]) -> None:
        """Live, then call ``on_end``, however it ends; ``nursery`` is where `run` itself runs."""
        try:
            with self._scope:
                await self._wait_for_turn()
                nursery.start_soon(self._expect_ready)
                await self._live()
        except BaseException as error:  # crash boundary: the supervisor decides
            self.error = real_error(error)
            if not isinstance(self.error, Exception):
                raise  # KeyboardInterrupt and its like end the whole tree
        finally:  # also when cancelled: somebody waits for these
            self.child.enter(State.STOPPED)
            self.settled.set()
            self.ended.set()
            on_end(self)

    async def stop(self) -> bool:
        """Cancel it and wait for its end; False, and reported, if it is stuck."""
        self._scope.cancel()
        if self.child.state is not State.STOPPED:
            self.child.enter(State.STOPPING)
        spec = self.child.spec
        with trio.move_on_after(spec.stop_timeout):
            await self.ended.wait()
        if not self.ended.is_set():
            report_stuck(spec.name, spec.stop_timeout)
        return self.ended.is_set()

    async def _wait_for_turn(self) -> None:
        if self._delay > 0:
            await trio.sleep(self._delay)
        if self._after is not None:
            await self._after.settled.wait()
            if self._after.ready_at is None:
                await trio.sleep_forever()  # its death makes the supervisor begin again with both

    async def _live(self) -> None:
        self.child.enter(State.STARTING)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.child.spec.run)
            self.ready_at = trio.current_time()
            self.child.enter(State.READY)
            self.settled.set()

    async def _expect_ready(self) -> None:
        spec = self.child.spec
        with trio.move_on_after(spec.ready_timeout):
            await self.settled.wait()
        if not self.settled.is_set():
            self.error = StartTimeout(f"{spec.name}: not ready after {spec.ready_timeout:g} s")
            await self.stop()
