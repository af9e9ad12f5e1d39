"""A host in a process of its own: prints its address, answers for ever."""

from __future__ import annotations

import os
import sys

import trio

from r3mes.p2p.host import open_host
from r3mes.p2p.identity import NodeKey
from r3mes.p2p.streams import FrameStream

TICK = "/r3mes/tick/1.0.0"


async def tick(stream: FrameStream) -> None:
    """One frame every 10 ms, for ever."""
    while True:
        await stream.send(b"tick")
        await trio.sleep(0.01)


async def main() -> None:
    async with open_host(NodeKey(os.urandom(32)), listen=["127.0.0.1:0"]) as host:
        host.serve(TICK, tick)
        sys.stdout.write(f"{host.addrs[0]}\n")
        sys.stdout.flush()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
