"""A line to the running node: its admin socket if this user may open it, else HTTP with the key.

Imported when something is asked, not before: http.client costs what a whole `--help` may take.
"""

from __future__ import annotations

import socket
from http.client import HTTPConnection
from pathlib import Path


class AdminConnection(HTTPConnection):
    """HTTP over the admin socket, whose permissions stand for a key."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Open the socket.

        Raises:
            OSError: it is not there, nobody listens, or this user may not.
        """
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def admin_line(path: Path, timeout: float) -> AdminConnection | None:
    """A connection to the admin socket; None if it cannot be used."""
    connection = AdminConnection(path, timeout)
    try:
        connection.connect()
    except OSError:
        connection.close()
        return None
    return connection
