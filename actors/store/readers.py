"""Reads: a few read-only connections that callers borrow, each read with a deadline.

They go round the writer, so a read never waits for a commit.  While the store restarts there is
no connection to borrow, and a read waits for one until its deadline, as a message would.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import trio

from r3mes.actors.store.batch import Transaction
from r3mes.actors.store.connections import reader
from r3mes.actors.store.trio_connection import ConnectionClosed, TrioConnection
from r3mes.errors import ActorStopped, AskTimeout

R = TypeVar("R")

CONNECTIONS = 2
"""Reads that run at once; the rest wait for their turn."""


class Readers:
    """The connections that can be borrowed now; filled while the store is open."""

    def __init__(self) -> None:
        self._give, self._take = trio.open_memory_channel[TrioConnection](CONNECTIONS)
        self._open: set[TrioConnection] = set()

    @asynccontextmanager
    async def opened(self, path: Path) -> AsyncIterator[None]:
        """Lend connections to the database at ``path`` as long as this is open."""
        async with AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(reader(path)) for _ in range(CONNECTIONS)]
            self._open.update(opened)  # all or none: the next incarnation starts from nothing
            for connection in opened:
                self._give.send_nowait(connection)
            try:
                yield
            finally:
                self._open.clear()
                with suppress(trio.WouldBlock):
                    while True:  # who waits for one goes on waiting, for the next incarnation
                        self._take.receive_nowait()

    async def run(self, fn: Transaction[R], *, timeout: float) -> R:
        """Run ``fn`` on a borrowed connection; at the deadline SQLite is interrupted.

        Raises:
            AskTimeout: not done within ``timeout`` seconds.
            ActorStopped: the store stopped under this read.
            sqlite3.Error: as ``fn`` met it.
        """
        with trio.move_on_after(timeout):
            connection = await self._take.receive()
            try:
                return await connection.run_stoppable(fn)
            except (sqlite3.Error, ConnectionClosed):
                if connection not in self._open:
                    raise ActorStopped("store: it stopped under this read") from None
                raise
            finally:
                if connection in self._open:
                    self._give.send_nowait(connection)
        raise AskTimeout(f"store: no result of a read within {timeout:g} s")
