"""A seeded simulation of the kernel: one run is a function of its seed, faults and all.

A tree of two supervisors and four actors that ask each other downhill lives for some virtual
minutes while actors crash in handlers, at start and in background tasks.  Nobody may wait beyond
the deadline of an ask (late), and after the faults have stopped every actor answers again (hang).
Source: FoundationDB and TigerBeetle's VOPR test so; trio's virtual clock makes it cheap.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from random import Random

import trio
import trio._core._run as trio_run
import trio.testing

from r3mes.actors.kernel.actor import Actor
from r3mes.actors.kernel.backoff import Backoff
from r3mes.actors.kernel.child import ChildSpec, State
from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.actors.kernel.supervisor import Strategy, Supervisor
from r3mes.errors import R3mesError

ASKERS = 6
RECOVERY = 60.0  # virtual seconds after the last fault within which everything answers again
TOLERANCE = 1e-6  # virtual seconds: rounding of floats


def dice(seed: int) -> Random:
    """Chance that repeats itself."""
    return Random(seed)  # noqa: S311  not a secret


class Injected(Exception):
    """A fault."""


@dataclass(frozen=True, slots=True)
class Work(Ask[int]):
    """Take ``seconds`` for it and ask the actor below, if any."""

    seconds: float
    patience: float


@dataclass(slots=True)
class Outcome:
    """What one seed led to."""

    seed: int
    log_hash: str = ""
    answered: int = 0
    failed: int = 0
    restarts: int = 0
    late: int = 0
    hangs: int = 0


class Faults:
    """Decides by dice what crashes, until it is told to stop."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.active = True

    def strike(self, chance: float) -> None:
        if self.active and self.rng.random() < chance:
            raise Injected


class Worker(Actor[Work]):
    def __init__(self, mailbox: Mailbox[Work], below: Mailbox[Work] | None, faults: Faults) -> None:
        super().__init__(mailbox)
        self._below = below
        self._faults = faults

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self._faults.strike(0.1)
        await trio.sleep(self._faults.rng.uniform(0, 0.2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._background)
            yield
            nursery.cancel_scope.cancel()

    async def handle(self, message: Work) -> None:
        await trio.sleep(message.seconds)
        self._faults.strike(0.01)
        answer = 1
        if self._below is not None:
            below = Work(message.seconds / 2, message.patience / 2)
            try:
                answer += await self._below.ask(below, timeout=below.patience, shed=True)
            except R3mesError:
                answer = 0
        message.reply(answer)

    async def _background(self) -> None:
        while True:
            await trio.sleep(self._faults.rng.expovariate(0.5))
            self._faults.strike(0.05)


class World:
    """One seed's actors, askers and log."""

    def __init__(self, seed: int, seconds: float) -> None:
        self.outcome = Outcome(seed)
        self._seconds = seconds
        self._faults = Faults(dice(seed + 1))
        self._log = hashlib.sha256()
        self._boxes = [Mailbox[Work](name, capacity=8) for name in ("store", "a", "b", "http")]
        self._work = Supervisor(
            "work",
            [self._child(1), self._child(2)],
            intensity=4,
            period=30,
            rng=dice(seed + 2),
        )
        self._root = Supervisor(
            "root",
            [self._child(0), self._work.as_child(), self._child(3)],
            strategy=Strategy.REST_FOR_ONE,
            intensity=10**9,
            rng=dice(seed + 3),
        )

    async def live(self) -> Outcome:
        async with trio.open_nursery() as nursery:
            await self._start(nursery)
            async with trio.open_nursery() as askers:
                for number in range(ASKERS):
                    askers.start_soon(self._ask_on, number)
                await trio.sleep(self._seconds)
                self._faults.active = False
                await trio.sleep(RECOVERY)
                askers.cancel_scope.cancel()
            await self._check_liveness()
            nursery.cancel_scope.cancel()
        self.outcome.log_hash = self._log.hexdigest()
        return self.outcome

    async def _start(self, nursery: trio.Nursery) -> None:
        self._faults.active = False  # a first start that fails ends the node, rightly
        await nursery.start(self._root.run)
        self._faults.active = True

    async def _ask_on(self, number: int) -> None:
        rng = dice(self.outcome.seed * 100 + number)
        while True:
            await trio.sleep(rng.expovariate(2.0))
            box = rng.choice(self._boxes)
            await self._ask(box, Work(rng.expovariate(20.0), rng.uniform(0.05, 2.0)))

    async def _ask(self, box: Mailbox[Work], work: Work) -> None:
        start = trio.current_time()
        result = "cancelled"
        try:
            answer = await box.ask(work, timeout=work.patience)
            result = str(answer)
            self.outcome.answered += 1
        except R3mesError as error:
            result = error.kind.code
            self.outcome.failed += 1
        finally:
            took = trio.current_time() - start
            self.outcome.late += took > work.patience + TOLERANCE
            self._note(f"{box.name} {work} {result} {took:.6f}")

    async def _check_liveness(self) -> None:
        children = (*self._root.statistics(), *self._work.statistics())
        self.outcome.hangs += sum(child.state is not State.READY for child in children)
        for box in self._boxes:
            try:
                await box.ask(Work(0.0, 10.0), timeout=10.0)
            except R3mesError:
                self.outcome.hangs += 1

    def _child(self, at: int) -> ChildSpec:
        below = self._boxes[at - 1] if at in (1, 3) else None
        box = self._boxes[at]

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            self.outcome.restarts += 1
            self._note(f"{box.name} begins")
            await Worker(box, below, self._faults).run(task_status=task_status)

        return ChildSpec(box.name, run, backoff=Backoff(0.05, 2.0, 10.0), intake=box)

    def _note(self, line: str) -> None:
        self._log.update(f"{trio.current_time():.6f} {line}\n".encode())


@contextmanager
def deterministic_trio(seed: int) -> Iterator[None]:
    """Make the order in which trio runs ready tasks depend on ``seed`` alone.

    Both names are private to trio; hypothesis' own trio support uses them too.
    """
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.seed(seed)
    try:
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]


@contextmanager
def silent(logger: str) -> Iterator[None]:
    """Keep ``logger`` from telling of each of the thousands of deaths that we cause."""
    before = logging.getLogger(logger).level
    logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logging.getLogger(logger).setLevel(before)


def simulate(seed: int, seconds: float = 600.0) -> Outcome:
    """Run one seed for ``seconds`` virtual seconds of faults, and `RECOVERY` without."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    with silent("r3mes.actors.kernel"), deterministic_trio(seed):
        return trio.run(World(seed, seconds).live, clock=clock)
