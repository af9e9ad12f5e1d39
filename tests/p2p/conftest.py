"""Real libp2p hosts on loopback."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import pytest

from r3mes.p2p.host import Host, HostLimits, open_host
from r3mes.p2p.identity import NodeKey

OpenHost = Callable[..., AbstractAsyncContextManager[Host]]


def new_host(limits: HostLimits | None = None) -> AbstractAsyncContextManager[Host]:
    return open_host(NodeKey(os.urandom(32)), listen=["127.0.0.1:0"], limits=limits or HostLimits())


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Host, Host]]:
    """Two hosts, the first connected to the second."""
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(new_host())
        b = await stack.enter_async_context(new_host())
        await a.dial(b.addrs)
        yield a, b
