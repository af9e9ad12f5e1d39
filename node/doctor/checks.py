"""All checks, in the order in which one thing rests on another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import trio

from r3mes.errors import R3mesError
from r3mes.node.doctor import machine, network, place
from r3mes.node.doctor.finding import Finding, Subject, failed

Check: TypeAlias = Callable[[Subject], Finding]
EngineCheck: TypeAlias = Callable[[Subject], Awaitable[list[Finding]]]

CHECKS: tuple[Check, ...] = (
    machine.python,
    machine.memory,
    machine.disk,
    machine.clock,
    place.data_directory,
    place.configuration,
    place.secrets,
    place.wallet,
    place.store,
    place.backup,
    network.ports,
    network.dial_back,
)


async def run_checks(subject: Subject) -> AsyncIterator[Finding]:
    """Every finding as it is made; the slow ones about the engine come last."""
    for check in CHECKS:
        yield await trio.to_thread.run_sync(_tried, check, subject)
    for finding in await _engine(subject):
        yield finding


async def _engine(subject: Subject) -> list[Finding]:
    """Torch and the models, at the same time: each has a process that takes seconds to start.

    The models of a node that runs are left to it: a second copy might not fit into memory.
    """
    from r3mes.node.doctor.engine import engine, models

    torch: list[Finding] = []
    loaded: list[Finding] = []

    async def find(look: EngineCheck, found: list[Finding]) -> None:
        found += await look(subject)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(find, engine, torch)
        if subject.running is None:
            nursery.start_soon(find, models, loaded)
    return torch + loaded


def _tried(check: Check, subject: Subject) -> Finding:
    """What ``check`` finds; what it cannot even look at is a finding, too."""
    name = check.__name__.replace("_", " ").capitalize()
    try:
        return check(subject)
    except R3mesError as error:
        return failed(name, error)
    except OSError as error:
        return Finding(name, "fail", str(error), "let this user read what is named here")
