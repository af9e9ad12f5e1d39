"""Supervision after Erlang/OTP: start in order, restart by strategy, give up loudly.

Source: Erlang/OTP ``supervisor`` (stdlib manual, "Supervision Principles").  Kept: the three
static strategies, restart types, restart intensity, ordered start and reverse-ordered stop.
Added: backoff, drain.  Left out: dynamic children, code change, automatic shutdown, and brutal
kill, which trio cannot do (see `escalation`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from math import inf
from random import Random

import trio

from r3mes.actors.kernel.child import Child, ChildSpec, ChildStatistics, Life, Restart, State
from r3mes.errors import RestartLimit

logger = logging.getLogger(__name__)


class Strategy(Enum):
    """Whom to restart when a child ends."""

    ONE_FOR_ONE = auto()  # restart the child that ended
    ONE_FOR_ALL = auto()  # restart every child
    REST_FOR_ONE = auto()  # restart it and those started after it


class Supervisor:
    """Keeps its children alive; itself shaped like a child, so trees nest.

    One loop takes the ends of the children one by one and decides.  Waiting (for a backoff, for
    the child before it) is done by the new incarnations themselves, so the loop is never late.

    Args:
        name: for logs and errors.
        children: in the order of their start.
        strategy: whom to restart when a child ends.
        intensity: restarts within ``period`` that are borne; with one more `run` stops all
            children and raises `RestartLimit`.  Intensities multiply up a tree.
        period: seconds.
        rng: where the jitter of the backoff comes from.
    """

    def __init__(
        self,
        name: str,
        children: Sequence[ChildSpec],
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        intensity: int = 5,
        period: float = 30.0,
        rng: Random | None = None,
    ) -> None:
        self.name = name
        self._specs = tuple(children)
        if len({spec.name for spec in self._specs}) != len(self._specs):
            raise ValueError(f"{name}: child names must differ")
        self._strategy = strategy
        self._intensity = intensity
        self._period = period
        self._rng = rng or Random()  # noqa: S311  jitter, not a secret
        self._children: tuple[Child, ...] = ()
        self._deaths: deque[float] = deque()
        self._ends, self._ended = trio.open_memory_channel[Life | None](inf)  # None: drain
        self._draining = False

    @property
    def specs(self) -> tuple[ChildSpec, ...]:
        """The children, in the order of their start and of `statistics`."""
        return self._specs

    @property
    def stop_timeout(self) -> float:
        """Seconds within which `run` ends once it is cancelled, if no child is stuck."""
        return sum(spec.stop_timeout for spec in self._specs) + 1.0

    def as_child(self, restart: Restart = Restart.PERMANENT) -> ChildSpec:
        """How a supervisor above runs this one."""
        ready_timeout = sum(spec.ready_timeout for spec in self._specs) + 1.0
        return ChildSpec(
            self.name,
            self.run,
            restart,
            ready_timeout=ready_timeout,
            stop_timeout=self.stop_timeout,
            intake=self,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the children and keep them alive until drained or cancelled.

        Raises:
            RestartLimit: more than ``intensity`` restarts within ``period`` seconds.
            Exception: what the first start of a child, or one of its `ChildSpec.fatal`, failed of.
        """
        self._children = tuple(Child(spec) for spec in self._specs)
        self._deaths.clear()
        failure: Exception | None = None
        async with trio.open_nursery() as self._nursery:
            try:
                await self._start_all()
                task_status.started()
                await self._watch()
            except Exception as error:  # noqa: BLE001  raised below, without the nursery's group
                failure = error
            finally:
                await self._stop(self._children, told=failure)
        if failure is not None:
            raise failure

    def drain(self) -> None:
        """Let `run` end as soon as the children, last first, have done what they had taken."""
        self._draining = True
        self._ends.send_nowait(None)

    def close(self) -> None:
        """Refuse whatever still waits for one of the children; none of them will come back."""
        for spec in self._specs:
            if spec.intake is not None:
                spec.intake.close()

    def statistics(self) -> tuple[ChildStatistics, ...]:
        """The figures of this moment, one per child; empty before the first start."""
        return tuple(child.statistics() for child in self._children)

    async def _start_all(self) -> None:
        for child in self._children:
            life = self._begin(child)
            await life.settled.wait()
            if life.ready_at is None:
                raise life.error or RestartLimit(f"{self.name}: {child.spec.name} did not start")

    def _begin(self, child: Child, *, delay: float = 0.0, after: Life | None = None) -> Life:
        child.enter(State.WAITING)
        child.life = Life(child, delay=delay, after=after)
        self._nursery.start_soon(child.life.run, self._nursery, self._ends.send_nowait)
        return child.life

    async def _watch(self) -> None:
        while not (self._draining and await self._drained()):
            life = await self._ended.receive()
            if life is not None:
                await self._on_end(life)

    async def _on_end(self, life: Life) -> None:
        child = life.child
        if child.life is not life:
            return  # stopped on purpose in the meantime
        child.life = None
        child.fail(life)
        if not self._comes_back(child, life.error):
            child.retire()
        elif isinstance(life.error, child.spec.fatal):
            raise life.error
        else:
            self._count_death(child)
            await self._restart(child)

    def _comes_back(self, child: Child, error: BaseException | None) -> bool:
        if error is None and self._draining:
            return False
        if child.spec.restart is Restart.TRANSIENT:
            return error is not None
        return child.spec.restart is Restart.PERMANENT

    def _count_death(self, child: Child) -> None:
        error, name = child.last_error, child.spec.name
        logger.error("%s: %s died, restarting", self.name, name, exc_info=error)
        now = trio.current_time()
        self._deaths.append(now)
        while self._deaths[0] <= now - self._period:
            self._deaths.popleft()
        if len(self._deaths) > self._intensity:
            within = f"{len(self._deaths)} failures within {self._period:g} s"
            raise RestartLimit(f"{self.name}: {within}, the last of {name}") from error

    async def _restart(self, child: Child) -> None:
        affected = self._affected(child)
        if not await self._stop(affected):
            raise RestartLimit(f"{self.name}: a child to be restarted is stuck")
        delay = child.spec.backoff.delay_for(child.failures, self._rng)
        before: Life | None = None
        for other in affected:
            if other is not child and other.spec.restart is Restart.TEMPORARY:
                other.retire()
            if not other.wanted:
                continue
            other.restarts += 1
            before = self._begin(other, delay=delay if other is child else 0.0, after=before)

    def _affected(self, child: Child) -> tuple[Child, ...]:
        at = self._children.index(child)
        match self._strategy:
            case Strategy.ONE_FOR_ONE:
                return (child,)
            case Strategy.ONE_FOR_ALL:
                return self._children
            case Strategy.REST_FOR_ONE:
                return self._children[at:]

    async def _stop(self, children: Sequence[Child], *, told: Exception | None = None) -> bool:
        """Stop ``children``, last started first; False if one is stuck, but the others stop too.

        What one failed of is logged, unless it is ``told``: that is raised afterwards.
        """
        stopped = True
        with trio.CancelScope(shield=True):  # each takes its `stop_timeout` at most
            for child in reversed(children):
                life, child.life = child.life, None
                if life is not None:
                    stopped &= await life.stop()
                    if life.error is not told:
                        _log_failed_stop(self.name, life)
        return stopped

    async def _drained(self) -> bool:
        """Let the last child that lives finish; True once none is left."""
        for child in reversed(self._children):
            if child.life is None:
                continue
            if child.spec.intake is not None:
                child.spec.intake.drain()
                return False  # its end comes as an event
            await self._stop((child,))
            child.wanted = False
        return True


def _log_failed_stop(supervisor: str, life: Life) -> None:
    if life.error is not None:
        name = life.child.spec.name
        logger.warning("%s: %s failed while it stopped", supervisor, name, exc_info=life.error)
