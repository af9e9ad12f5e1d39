"""Announces itself on the LAN, prints the first peer that it sees, stays for a while."""

from __future__ import annotations

import sys

import trio

from r3mes.p2p.discovery import lan_discovery
from r3mes.p2p.identity import NodeKey


async def main(seed: int) -> None:
    key = NodeKey(bytes([seed]) * 32)
    addr = f"/ip4/0.0.0.0/tcp/7330/p2p/{key.peer_id}"
    with trio.fail_after(20):
        async with lan_discovery(key.peer_id, [addr]) as news:
            sys.stdout.write(" ".join(await news.receive()))
            sys.stdout.flush()
            await trio.sleep(3)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
