"""A host's listeners answer knocks from the machine itself; a dead listener is told apart."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from r3mes.errors import PeerUnreachable
from r3mes.p2p.host import HostLimits
from r3mes.p2p.knock import knock
from tests.p2p.conftest import new_host

pytestmark = pytest.mark.net


async def test_a_host_answers_many_knocks_and_keeps_nothing_of_them() -> None:
    with trio.fail_after(30):
        async with new_host() as host, new_host() as guest:
            for _ in range(100):
                await host.knock()
            await guest.dial(host.addrs)
            await trio.testing.wait_all_tasks_blocked(0.05)
            manager = host._swarm._resource_manager
            assert manager is not None
            assert manager._current_connections == 1


async def test_a_host_with_enough_connections_hangs_up_which_is_an_answer() -> None:
    with trio.fail_after(10):
        async with new_host(HostLimits(connections=0)) as host:
            await host.knock()


async def test_a_listener_that_accepts_and_says_nothing_does_not_answer() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, silent, 0, host="127.0.0.1"))
        with trio.move_on_after(0.2) as waiting:
            await knock("0.0.0.0", listeners[0].socket.getsockname()[1])  # noqa: S104  as configured
        assert waiting.cancelled_caught
        nursery.cancel_scope.cancel()


async def test_nobody_listens() -> None:
    with pytest.raises(PeerUnreachable, match="Connection refused"):
        await knock("127.0.0.1", 1)
