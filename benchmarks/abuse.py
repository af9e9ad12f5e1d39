"""Attacks on one node: what they cost it, and whether honest peers still get through.

The host under attack runs in a process of its own (``python -m benchmarks.abuse victim``), with its
limits as shipped.  `benchmarks.p2p` takes its figures from here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

from benchmarks.report import print_result, say
from r3mes.errors import NetworkError
from r3mes.p2p.host import Host, open_host
from r3mes.p2p.identity import NodeKey
from r3mes.p2p.streams import FrameStream

ECHO, STUCK, CRASH = "/abuse/echo/1.0.0", "/abuse/stuck/1.0.0", "/abuse/crash/1.0.0"
MESHSUB = "/meshsub/1.1.0"
AT_ONCE = 10
"""Guests at the same time."""
FLOOD_FROM = "127.0.0.2"

Figures = dict[str, object]


@dataclass(frozen=True, slots=True)
class Victim:
    """The host under attack."""

    address: str
    pid: int

    def rss_mb(self) -> float:
        """Resident memory now, in MB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


@asynccontextmanager
async def victim() -> AsyncIterator[Victim]:
    """A host under attack, as long as the block runs."""
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, "-m", "benchmarks.abuse", "victim"],
                stdout=subprocess.PIPE,
                check=False,
            )
        )
        assert process.stdout is not None
        address = b""
        while not address.endswith(b"\n"):
            address += await process.stdout.receive_some() or b"it did not start\n"
        yield Victim(address.decode().strip(), process.pid)
        process.kill()


def guest() -> Any:
    """A peer with a key of its own that only dials."""
    return open_host(NodeKey(os.urandom(32)), listen=[])


async def is_served(host: Host, target: Victim) -> bool:
    """Whether ``host`` can dial the victim and gets an answer."""
    try:
        peer = await host.dial([target.address])
        stream = await host.open_stream(peer, ECHO)
        await stream.send(b"hello")
        answer = await stream.receive()
        await stream.finish()
        await stream.receive()
        await stream.aclose()
    except NetworkError:
        return False
    return answer == b"hello"


async def churn(count: int = 300) -> Figures:
    """``count`` connections opened and closed, then as many honest dials."""
    async with victim() as target:
        await _many(count, target)
        served = await _many(count, target)
    return {"churned": count, "churned_ok": served}


async def _many(count: int, target: Victim) -> int:
    served = 0
    slots = trio.CapacityLimiter(AT_ONCE)

    async def one() -> None:
        nonlocal served
        async with slots, guest() as host:
            ok = await is_served(host, target)
        served += ok

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return served


async def silent_sockets(count: int = 400, dials: int = 6) -> Figures:
    """``count`` sockets from one address that say nothing; then honest dials from another."""
    async with victim() as target:
        sockets = [await _silent(target) for _ in range(count)]
        seconds = []
        for _ in range(dials):
            async with guest() as host:
                started = trio.current_time()
                if await is_served(host, target):
                    seconds.append(trio.current_time() - started)
        for socket in sockets:
            socket.close()
    return {
        "silent_sockets": count,
        "honest_dials": dials,
        "honest_ok": len(seconds),
        "honest_p50_ms": round(1000 * median(seconds), 1) if seconds else None,
    }


async def _silent(target: Victim) -> trio.socket.SocketType:
    socket = trio.socket.socket()
    await socket.bind((FLOOD_FROM, 0))
    _, _, host, _, port, *_ = target.address.split("/")
    with suppress(OSError):
        await socket.connect((host, int(port)))
    return socket


async def window_overrun(megabytes: int = 200) -> Figures:
    """A peer that sends without regard to its window, into a stream that nobody reads."""
    async with victim() as target, guest() as host:
        peer = await host.dial([target.address])
        stream: Any = await host.open_stream(peer, STUCK)
        before = most = target.rss_mb()
        sent = 0
        stream._stream._stream.muxed_stream.send_window = 1 << 40
        with suppress(NetworkError), trio.move_on_after(60):
            for _ in range(megabytes):
                await stream.send(b"x" * ((1 << 20) - 4))
                sent += 1
                most = max(most, target.rss_mb())
        await trio.sleep(1)
        most = max(most, target.rss_mb())
        served = await is_served(host, target)
    return {
        "window_abuse_rss_mb": round(most - before, 1),
        "window_abuse_sent_mb": sent,
        "window_abuse_then_served": served,
    }


def malformed() -> list[bytes]:
    """Pubsub messages, with their length in front, that no peer should send."""
    bodies = [
        b"\xff" * 64,  # no protobuf
        b"\x0a\x05\x0a",  # cut inside a field
        b"\x12\x04\x0a\x02\xff\xff",  # a message from an impossible peer
        b"\x12\x08\x0a\x01x\x12\x01y\x22\x00",  # an empty topic, no signature
        b"\x1a\x04\x0a\x02\x0a\x00",  # IHAVE of nothing
        b"\x1a\x06\x1a\x04\x0a\x02\xc3\x28",  # GRAFT of a topic that is not UTF-8
        b"\x1a\x07\x22\x05\x0a\x01t\x18\x7f",  # PRUNE with an odd backoff
        b"",
    ]
    framed = [len(body).to_bytes(1, "big") + body for body in bodies]
    return [*framed, b"\xff" * 12, b"\xff\xff\xff\xff\x0f", b"\x80"]  # and lengths that lie


async def malformed_pubsub() -> Figures:
    """Malformed pubsub messages and failing handlers; counts how often the victim is gone."""
    async with victim() as target:
        crashes = 0
        attacks: list[Callable[[Host, Victim], Awaitable[None]]] = [
            *(partial(_publish, data) for data in malformed()),
            _crash,
        ]
        for attack in attacks:
            async with guest() as host:
                with suppress(NetworkError, trio.TooSlowError):
                    await attack(host, target)
            async with guest() as honest:
                crashes += not await is_served(honest, target)
    return {"pubsub_crashes": crashes, "pubsub_cases": len(malformed()) + 1}


async def _publish(data: bytes, host: Host, target: Victim) -> None:
    peer = await host.dial([target.address])
    stream: Any = await host._host.new_stream(ID.from_base58(peer), [TProtocol(MESHSUB)])
    await stream.write(data)
    await trio.sleep(0.1)
    await stream.reset()


async def _crash(host: Host, target: Victim) -> None:
    peer = await host.dial([target.address])
    for _ in range(3):
        stream = await host.open_stream(peer, CRASH)
        await stream.receive()


async def all_attacks(quick: bool = False) -> Figures:
    """Every attack in turn, each on a fresh victim."""
    figures: Figures = {}
    count = 60 if quick else 300
    attacks: list[Callable[[], Any]] = [
        partial(churn, count), silent_sockets, window_overrun, malformed_pubsub,
    ]  # fmt: skip
    for attack in attacks:
        with trio.fail_after(240):
            found = await attack()
        say(str(found))
        figures |= found
    return figures


async def _be_victim() -> None:
    async def echo(stream: FrameStream) -> None:
        while (frame := await stream.receive()) is not None:
            await stream.send(frame)
        await stream.finish()

    async def stuck(stream: FrameStream) -> None:
        await trio.sleep_forever()

    async def crash(stream: FrameStream) -> None:
        raise RuntimeError("a handler fails")

    async with open_host(NodeKey(os.urandom(32)), listen=["127.0.0.1:0"]) as host:
        host.serve(ECHO, echo)
        host.serve(STUCK, stuck)
        host.serve(CRASH, crash)
        gossip = GossipSub([TProtocol(MESHSUB)], degree=6, degree_low=4, degree_high=12)
        pubsub = Pubsub(host._host, gossip)
        async with background_trio_service(pubsub), background_trio_service(gossip):
            await pubsub.wait_until_ready()
            await pubsub.subscribe("t")
            print(host.addrs[0], flush=True)
            await trio.sleep_forever()


if __name__ == "__main__":
    if sys.argv[1:] == ["victim"]:
        trio.run(_be_victim)
    else:
        print_result(trio.run(all_attacks, "--quick" in sys.argv))
