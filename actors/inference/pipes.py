"""A worker's ends of the pipes to the daemon: commands on standard input, reports on output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from r3mes.actors.inference.protocol import Command, Report, Unframer, decode_command, frame


def reports() -> BinaryIO:
    """Where reports go; what a library prints from now on must not end up between them."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return out


def commands() -> Iterator[Command]:
    """What the daemon says, until it closes the pipe."""
    unframer = Unframer()
    while data := os.read(0, 65536):
        yield from map(decode_command, unframer.feed(data))


def say(out: BinaryIO, report: Report) -> None:
    """Send all of a report."""
    data = frame(report)
    while data:
        data = data[out.write(data) :]
