"""Peers in processes of their own that are killed or frozen in the middle of a stream."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from r3mes.errors import PeerDisconnected
from r3mes.p2p.host import Host
from r3mes.p2p.repairs import pings

pytestmark = [pytest.mark.net, pytest.mark.slow]

PEER = Path(__file__).with_name("serving_peer.py")
TICK = "/r3mes/tick/1.0.0"


@asynccontextmanager
async def another_process() -> AsyncIterator[tuple[trio.Process, str]]:
    """A host in a process of its own, and its address."""
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, str(PEER)],
                stdout=subprocess.PIPE,
                check=False,
            )
        )
        assert process.stdout is not None
        address = b""
        while not address.endswith(b"\n"):
            address += await process.stdout.receive_some()
        try:
            yield process, address.decode().strip()
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


async def silence(pair: tuple[Host, Host], how: signal.Signals) -> float:
    """Seconds until a reader in the middle of a stream learns that the peer is gone."""
    host, _ = pair
    async with another_process() as (process, address):
        peer = await host.dial([address])
        stream = await host.open_stream(peer, TICK)
        for _ in range(10):
            assert await stream.receive() == b"tick"
        process.send_signal(how)
        started = trio.current_time()
        with pytest.raises(PeerDisconnected):
            while await stream.receive() is not None:
                pass
        await host.wait_closed(peer)
        await stream.aclose()
        return trio.current_time() - started


async def test_a_killed_peer_is_noticed_at_once(pair: tuple[Host, Host]) -> None:
    with trio.fail_after(30):
        assert await silence(pair, signal.SIGKILL) < 2


async def test_a_frozen_peer_is_noticed(
    pair: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pings, "EVERY_S", 0.5)
    monkeypatch.setattr(pings, "ANSWER_S", 1.0)
    with trio.fail_after(30):
        assert await silence(pair, signal.SIGSTOP) < 5


def test_a_frozen_peer_is_noticed_within_ten_seconds_as_shipped() -> None:
    assert pings.EVERY_S + pings.ANSWER_S <= 10
