"""The supervision tree as it is now: what runs, how often it died, what waits for it."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from r3mes.actors.kernel.canary import Canary, LoopLag
from r3mes.actors.kernel.child import ChildSpec, ChildStatistics
from r3mes.actors.kernel.mailbox import Mailbox, MailboxStatistics
from r3mes.actors.kernel.supervisor import Supervisor
from r3mes.node.logs.masking import masked


@dataclass(frozen=True, slots=True)
class Task:
    """One child of a supervisor.

    Args:
        state: `waiting` for its turn or for a backoff, `starting`, `ready`, `stopping`, `stopped`.
        for_s: seconds in this state.
        restarts: incarnations after the first, since its supervisor began.
        last_error: what it last died of.
        mailbox: what waits for it, if it is an actor.
        children: what it supervises itself.
    """

    name: str
    state: str
    for_s: float
    restarts: int
    last_error: str | None
    mailbox: MailboxStatistics | None
    children: list[Task]


@dataclass(frozen=True, slots=True)
class Tasks:
    """All that runs, and how late the event loop is."""

    tasks: list[Task]
    lag: LoopLag


def running_tasks(root: Supervisor, canary: Canary) -> Tasks:
    """The tree below ``root``."""
    return Tasks(_children(root), canary.statistics())


def _children(supervisor: Supervisor) -> list[Task]:
    pairs = zip(supervisor.specs, supervisor.statistics(), strict=False)  # none before the start
    return [_task(spec, figures) for spec, figures in pairs]


def _task(spec: ChildSpec, figures: ChildStatistics) -> Task:
    intake = spec.intake
    return Task(
        name=figures.name,
        state=figures.state.name.lower(),
        for_s=round(trio.current_time() - figures.since, 1),
        restarts=figures.restarts,
        last_error=None if figures.last_error is None else masked(figures.last_error),
        mailbox=intake.statistics() if isinstance(intake, Mailbox) else None,
        children=_children(intake) if isinstance(intake, Supervisor) else [],
    )
