"""What the node writes about itself while it runs, and the last of it for those who ask.

Every line, whoever logs it, takes one way (`Outlet`): secrets are masked, repetitions counted
instead of written, then it goes to stderr and into the ring that RPC and bundles read.
"""

from __future__ import annotations

import logging

from r3mes.config.schema import Log
from r3mes.node.logs.lines import format_for, goes_to_journal
from r3mes.node.logs.outlet import Outlet, Stderr
from r3mes.node.logs.ring import RECENT, Line, Ring

__all__ = ["RECENT", "Line", "Outlet", "Ring", "set_up", "write_as"]


def set_up(log: Log) -> Outlet:
    """Send log lines of our own, and warnings of libraries, to stderr and to `RECENT`."""
    outlet = write_as(log)
    logging.getLogger("r3mes").setLevel(log.level.upper())
    return outlet


def write_as(log: Log) -> Outlet:
    """The same, with the levels of our own loggers left as they are."""
    outlet = Outlet(format_for(log.format, journal=goes_to_journal()), Stderr(), RECENT)
    root = logging.getLogger()
    root.handlers[:] = [outlet]
    root.setLevel(logging.WARNING)
    return outlet
