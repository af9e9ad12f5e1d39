"""Asks this node's own API whether it answers, over its real socket."""

from __future__ import annotations

import socket

import trio

from r3mes.errors import NotReady

ASK = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  where it may listen


async def ask_api(address: str) -> None:
    """Return once the server at ``address``, ``host:port``, has begun an answer, whatever it says.

    The caller sets how long to wait.

    Raises:
        NotReady: nobody listens there, or hangs up.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_STREAM) as ours:
        try:
            await ours.connect((ANYWHERE.get(host, host), int(port)))
            await ours.send(ASK)
            answered = await ours.recv(4096)
        except OSError as error:
            raise NotReady(f"the API at {address}: {error.strerror}") from None
    if not answered.startswith(b"HTTP/1.1 "):
        raise NotReady(f"the API at {address} hangs up")
