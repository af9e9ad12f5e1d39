"""All checks, in the order in which one thing rests on another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import trio

from r3mes.errors import R3mesError
from r3mes.node.doctor import machine, network, place
from r3mes.node.doctor.finding import Finding, Subject, failed

Check: TypeAlias = Callable[[Subject], Finding]

CHECKS: tuple[Check, ...] = (
    machine.python,
    machine.memory,
    machine.disk,
    machine.clock,
    place.configuration,
    place.data_directory,
    place.secrets,
    place.wallet,
    place.store,
    place.backup,
    network.ports,
    network.dial_back,
)


async def run_checks(subject: Subject) -> AsyncIterator[Finding]:
    """Every finding as it is made; the slow ones about the engine come last.

    The models of a node that runs are left to it: a second copy might not fit into memory.
    """
    from r3mes.node.doctor.engine import engine, models

    for check in CHECKS:
        yield await trio.to_thread.run_sync(_tried, check, subject)
    for finding in await engine(subject):
        yield finding
    if subject.running is None:
        for finding in await models(subject):
            yield finding


def _tried(check: Check, subject: Subject) -> Finding:
    """What ``check`` finds; what it cannot even look at is a finding, too."""
    name = check.__name__.replace("_", " ").capitalize()
    try:
        return check(subject)
    except R3mesError as error:
        return failed(name, error)
    except OSError as error:
        return Finding(name, "fail", str(error), "let this user read what is named here")
