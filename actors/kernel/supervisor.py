"""Supervision after Erlang/OTP: start in order, restart by strategy, give up loudly.

Source: Erlang/OTP ``supervisor`` (stdlib manual, "Supervision Principles").  Kept:
the three static strategies, restart types, restart intensity, ordered start and
reverse-ordered stop.  Left out: dynamic children, code change, automatic shutdown.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf

import trio

from r3mes.errors import RestartLimit

logger = logging.getLogger(__name__)


class Strategy(Enum):
    """Whom to restart when a child ends."""

    ONE_FOR_ONE = auto()  # restart the child that ended
    ONE_FOR_ALL = auto()  # restart every child
    REST_FOR_ONE = auto()  # restart it and those started after it


class Restart(Enum):
    """When an ended child is restarted at all."""

    PERMANENT = auto()  # always
    TRANSIENT = auto()  # only after an error
    TEMPORARY = auto()  # never


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to run one child.

    ``run`` must call ``task_status.started()`` when it is ready; each call makes
    a fresh incarnation.  ``shutdown`` is the grace (seconds) after cancellation.
    """

    name: str
    run: Callable[..., Awaitable[None]]
    restart: Restart = Restart.PERMANENT
    shutdown: float = 5.0


@dataclass(eq=False, slots=True)
class _Child:
    spec: ChildSpec
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None


class Supervisor:
    """Keeps ``children`` alive; itself an actor-shaped child, so trees nest.

    Raises (from `run`):
        RestartLimit: more than ``intensity`` restarts within ``period`` seconds.
    """

    def __init__(
        self,
        name: str,
        children: Sequence[ChildSpec],
        *,
        strategy: Strategy = Strategy.ONE_FOR_ONE,
        intensity: int = 5,
        period: float = 30.0,
    ) -> None:
        self.name = name
        self._specs = tuple(children)
        if len({spec.name for spec in self._specs}) != len(self._specs):
            raise ValueError(f"{name}: child names must differ")
        self._strategy = strategy
        self._intensity = intensity
        self._period = period

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._live: dict[str, _Child] = {}
        self._wanted = set(self._specs)
        self._restarts: deque[float] = deque()
        self._exited, exits = trio.open_memory_channel[_Child](inf)
        async with trio.open_nursery() as self._nursery:
            try:
                for spec in self._specs:
                    await self._start(spec)
                task_status.started()
                async for child in exits:
                    await self._on_exit(child)
            finally:
                with trio.CancelScope(shield=True):
                    await self._stop(self._specs)

    async def _start(self, spec: ChildSpec) -> None:
        child = self._live[spec.name] = _Child(spec)
        await self._nursery.start(self._run_child, child)

    async def _run_child(self, child: _Child, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            with child.scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(child.spec.run)
                    child.scope.shield = True  # from now on only _stop cancels it
                    task_status.started()
        except Exception as error:
            child.error = error
            if not child.scope.shield:
                raise  # never became ready: _start's caller decides
        finally:
            child.done.set()
            if child.scope.shield:
                self._exited.send_nowait(child)

    async def _on_exit(self, child: _Child) -> None:
        spec = child.spec
        if self._live.get(spec.name) is not child:
            return  # stopped on purpose in the meantime
        del self._live[spec.name]
        if spec.restart is Restart.TEMPORARY or (
            spec.restart is Restart.TRANSIENT and child.error is None
        ):
            self._wanted.discard(spec)
            return
        self._count_restart(child)
        at = self._specs.index(spec)
        affected = {
            Strategy.ONE_FOR_ONE: self._specs[at : at + 1],
            Strategy.ONE_FOR_ALL: self._specs,
            Strategy.REST_FOR_ONE: self._specs[at:],
        }[self._strategy]
        await self._stop(affected)
        for other in affected:
            if other not in self._wanted:
                continue
            if other is not spec and other.restart is Restart.TEMPORARY:
                self._wanted.discard(other)
                continue
            try:
                await self._start(other)
            except Exception:  # noqa: BLE001  not ready again: one more death
                self._exited.send_nowait(self._live[other.name])
                break

    def _count_restart(self, child: _Child) -> None:
        logger.error("%s: %s died, restarting", self.name, child.spec.name, exc_info=child.error)
        now = trio.current_time()
        self._restarts.append(now)
        while self._restarts[0] <= now - self._period:
            self._restarts.popleft()
        if len(self._restarts) > self._intensity:
            raise RestartLimit(f"{self.name}: {child.spec.name} failed again") from child.error

    async def _stop(self, specs: Sequence[ChildSpec]) -> None:
        """Stop those of ``specs`` that run, last started first."""
        for spec in reversed(specs):
            child = self._live.pop(spec.name, None)
            if child is None:
                continue
            child.scope.cancel()
            with trio.move_on_after(spec.shutdown) as grace:
                await child.done.wait()
            if grace.cancelled_caught:
                logger.error("%s: %s did not stop in %.1fs", self.name, spec.name, spec.shutdown)
