"""Serves the application with Hypercorn in the daemon's own event loop.

Limits against slow callers: silence or half a header for `IDLE_SECONDS` ends a connection; a body
has `guards.BODY_SECONDS`; data that the caller does not take is given up by the kernel after
`STALLED_SECONDS`.  Hypercorn's ``read_timeout`` stays off: it would also end callers who listen
quietly to a long stream.

Source: Hypercorn 0.18 ``trio/run.py`` and ``trio/tcp_server.py``.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.types import ASGIApp

from r3mes.errors import ConfigError, PortInUse
from r3mes.node.http import repairs
from r3mes.node.http.cutting import cut_connections
from r3mes.node.http.unix_socket import bind_unix

IDLE_SECONDS = 15.0
STALLED_SECONDS = 60
HEADER_BYTES = 16 * 1024
BACKLOG = 128
WEBSOCKET_BYTES = 1024 * 1024 - 4096
PING_SECONDS = 20.0
"""Between two pings of a WebSocket: whoever does not take them is given up as stalled."""
CUT_SECONDS = 0.5
"""After the drain, to those who take what they are sent."""
UNIX = "unix:"

logger = logging.getLogger(__name__)
logger.setLevel(logging.WARNING)  # Hypercorn announces its address, and so do we
repairs.apply()


class HttpServer:
    """One listening socket and the application behind it.

    Args:
        listen: ``host:port``; port 0 takes a free one; or ``unix:PATH``.
        drain_seconds: how long answers in flight may go on after `drain`.
        key: of the configuration, where ``listen`` comes from.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        listen: str,
        drain_seconds: float = 30.0,
        key: str = "api.listen",
    ) -> None:
        self._key = key
        self._app, self._listen, self._drain_seconds = app, listen, drain_seconds
        self._draining = trio.Event()
        self.address = ""
        """Where it listens, in the form of ``listen``; known once `run` has started."""

    def drain(self) -> None:
        """Take no new connection; `run` returns when the answers in flight are out."""
        self._draining.set()

    def close(self) -> None:
        """Nothing waits here when `run` has ended: callers are refused by the closed port."""

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `drain`; cancelling cuts everything off.

        Starts with the address that was bound.

        Raises:
            PortInUse: the address is taken.
        """
        listener = bind(self._listen, self._key)
        name = listener.getsockname()
        self.address = _address(listener)
        config = _hypercorn_config(listener, self._drain_seconds)
        try:
            async with trio.open_nursery() as cutting:
                cutting.start_soon(self._cut_in_the_end, name)
                async with trio.open_nursery() as nursery:
                    await nursery.start(_start, self._app, config, self._draining.wait)
                    task_status.started(self.address)
                cutting.cancel_scope.cancel()
        finally:
            _leave(self.address)

    async def _cut_in_the_end(self, name: object) -> None:
        """Let nobody who does not read hold up the end: after the drain, or a cancel at once."""
        try:
            await self._draining.wait()
            await trio.sleep(self._drain_seconds + CUT_SECONDS)
        finally:
            cut_connections(name)


async def _start(
    app: ASGIApp,
    config: Config,
    shutdown: Callable[[], Awaitable[None]],
    *,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    await serve(app, config, shutdown_trigger=shutdown, task_status=task_status)  # type: ignore[arg-type]


def bind(listen: str, key: str = "api.listen") -> socket.socket:
    """A socket that listens on ``listen``, which was configured as ``key``.

    Raises:
        PortInUse: another program has the port.
        ConfigError: the address is not one of this machine.
    """
    if listen.startswith(UNIX):
        return bind_unix(Path(listen.removeprefix(UNIX)), backlog=BACKLOG)
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_SECONDS * 1000)
    try:
        listener.bind((host, int(port)))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise PortInUse(
                f"{key}: the node cannot listen on {listen}: another program does",
                do=f"stop that program, or choose another address as {key}",
            ) from None
        raise ConfigError(f"{key}: the node cannot listen on {listen}: {error}") from None
    return listener


def _address(listener: socket.socket) -> str:
    name = listener.getsockname()
    if isinstance(name, str):
        return UNIX + name
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _leave(address: str) -> None:
    """Take away what `bind` left in the file system."""
    if address.startswith(UNIX):
        Path(address.removeprefix(UNIX)).unlink(missing_ok=True)


def _hypercorn_config(listener: socket.socket, drain_seconds: float) -> Config:
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]  # Hypercorn closes it when it stops accepting
    config.graceful_timeout = drain_seconds
    config.keep_alive_timeout = IDLE_SECONDS
    config.h11_max_incomplete_size = HEADER_BYTES
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logger
    config.backlog = BACKLOG
    config.websocket_max_message_size = WEBSOCKET_BYTES
    config.websocket_ping_interval = PING_SECONDS
    return config
