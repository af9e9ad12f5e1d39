"""A listen port belongs to one node.

libp2p listens with SO_REUSEPORT (hole punching needs it), so a second daemon on the same port gets
no error and every other connection.  A port is therefore tried without that flag first, and held by
a name in the kernel that dies with the process, in the same network namespace as the port.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from r3mes.errors import ConfigError, PortInUse


@contextmanager
def hold_port(host: str, port: int) -> Iterator[None]:
    """Keep TCP ``port`` for this process; port 0 needs no holding.

    Raises:
        PortInUse: another program listens there.
        ConfigError: the address is not one of this machine.
    """
    if port == 0:
        yield
        return
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            lock.bind(f"\0r3mes-p2p-port-{port}")
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
                probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise ConfigError(
                    f"cannot listen on {host} port {port}: this machine has no such address",
                    do="choose one that `ip address` shows, or 0.0.0.0 for all, in p2p.listen",
                ) from None
            raise PortInUse(
                f"cannot listen on {host} port {port}: {error.strerror}",
                do=f"stop the program that uses it (ss -ltnp 'sport = :{port}') or choose "
                "another in p2p.listen",
            ) from error
        yield
