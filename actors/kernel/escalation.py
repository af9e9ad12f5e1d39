"""Whom to tell about a task that does not end.

trio cannot kill a task: one that sits in a thread or behind a shield holds its nursery, and with
it every supervisor above, for ever.  Only the end of the process helps, and that is the business
of whoever owns the process: it registers here, once per `trio.run`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio.lowlevel

logger = logging.getLogger(__name__)

_listener: trio.lowlevel.RunVar[Callable[[str], None] | None] = trio.lowlevel.RunVar(
    "r3mes.kernel.stuck", default=None
)


def on_stuck(listener: Callable[[str], None]) -> None:
    """Have ``listener`` called with the name of each task that did not stop in its time."""
    _listener.set(listener)


def report_stuck(name: str, waited: float) -> None:
    """Say that ``name`` was cancelled ``waited`` seconds ago and still runs."""
    logger.error("%s did not stop in %.1f s", name, waited)
    if (listener := _listener.get()) is not None:
        listener(name)
