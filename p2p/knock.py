"""Whether a node's own listener still takes connections: the check that finds a deaf node.

Source: libp2p's multistream-select 1.0: each side begins with the same line.  Left out: all that
comes after it; the handshake is given up, which costs the listener one failed one.
"""

from __future__ import annotations

import ipaddress
import socket

import trio

from r3mes.errors import PeerUnreachable

LINE = b"\x13/multistream/1.0.0\n"


async def knock(host: str, port: int) -> None:
    """Return when the listener at ``host`` has said its first word, or has hung up.

    It also hangs up when it has enough connections, which is an answer.  The caller sets how long
    to wait.

    Raises:
        PeerUnreachable: nobody listens there.
    """
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with trio.socket.socket(family, socket.SOCK_STREAM) as ours:
        try:
            await ours.connect((str(address), port))
            await ours.send(LINE)
            await ours.recv(len(LINE))
        except (ConnectionResetError, BrokenPipeError):
            return
        except OSError as error:
            raise PeerUnreachable(f"{address} port {port}: {error.strerror}") from None
