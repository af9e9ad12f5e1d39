"""Ends connections whose callers do not read, when the server has to end.

Hypercorn shields what it sends from cancellation, so a full buffer would hold up the stop of the
whole node: until the kernel gives up on TCP, and for ever on a Unix socket, which knows no timeout.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path


def cut_connections(name: object) -> None:
    """End every connection of this process whose own address is ``name``.

    Args:
        name: as ``getsockname`` of the listening socket gave it.
    """
    for entry in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):  # closed meanwhile, or not connected
            _cut(os.dup(int(entry.name)), name)


def _cut(fd: int, name: object) -> None:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        os.close(fd)
        return
    with socket.socket(fileno=fd) as connection:
        if connection.getsockname() == name:
            connection.getpeername()  # raises for one that listens
            connection.shutdown(socket.SHUT_RDWR)
