"""Bootstrap peers, and LAN discovery between two network namespaces of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from r3mes.errors import ConfigError
from r3mes.p2p.discovery import ADDRESSES_CAP, bootstrap_peers, told_addresses
from r3mes.p2p.identity import NodeKey

A, B = (NodeKey(bytes([n]) * 32).peer_id for n in (1, 2))
LAN_PEER = Path(__file__).with_name("lan_peer.py")


def test_bootstrap_peers_with_all_their_addresses() -> None:
    first, second = f"/ip4/192.0.2.7/tcp/1/p2p/{A}", f"/dns4/a.example/tcp/2/p2p/{A}"
    other = f"/ip6/::1/tcp/3/p2p/{B}"
    assert bootstrap_peers([first, f" {other}\n", second]) == {A: [first, second], B: [other]}
    assert bootstrap_peers([]) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.example:7330",
        "/ip4/192.0.2.7/tcp/7330",
        f"/p2p/{A}",
        f"/ip6/fe80::1%eth0/tcp/7330/p2p/{A}",
        f"/ip4/192.0.2.7/tcp/\N{ARABIC-INDIC DIGIT THREE}/p2p/{A}",
        f"/ip4/192.0.2.7/tcp/{'1' * 5000}/p2p/{A}",
        f"/dns4/a b/tcp/7330/p2p/{A}",
        f"/dns4/a..b/tcp/7330/p2p/{A}",
    ],
    ids=lambda text: text[:24],
)
def test_a_bootstrap_peer_that_makes_no_sense(text: str) -> None:
    with pytest.raises(ConfigError, match=r"p2p\.bootstrap") as caught:
        bootstrap_peers([text])
    assert "/ip4/" in caught.value.do


def record(*entries: str) -> bytes:
    return b"".join(bytes([len(entry)]) + entry.encode() for entry in entries)


def test_only_addresses_of_one_peer_on_private_networks_are_taken() -> None:
    good = [f"/ip4/192.168.1.{n}/tcp/7330/p2p/{A}" for n in range(20)]
    txt = record(
        "other=1",
        "dnsaddr=nonsense",
        f"dnsaddr=/ip4/8.8.8.8/tcp/1/p2p/{A}",
        f"dnsaddr=/ip4/127.0.0.1/tcp/6379/p2p/{A}",
        f"dnsaddr=/ip4/0.0.0.0/tcp/6379/p2p/{A}",
        f"dnsaddr=/ip6/::1/tcp/6379/p2p/{A}",
        f"dnsaddr=/dns4/a.example/tcp/1/p2p/{A}",
        f"dnsaddr=/ip6/fe80::1%lan/tcp/1/p2p/{A}",
        *(f"dnsaddr={addr}" for addr in good[:2]),
        f"dnsaddr=/ip4/192.168.1.9/tcp/1/p2p/{B}",
    )
    assert told_addresses(txt, B) == tuple(good[:2])
    assert told_addresses(record(*(f"dnsaddr={a}" for a in good)), B) == tuple(good[:ADDRESSES_CAP])
    assert told_addresses(txt, A) == (f"/ip4/192.168.1.9/tcp/1/p2p/{B}",)


@given(st.binary(max_size=300))
def test_any_record_is_read(txt: bytes) -> None:
    told_addresses(txt, A)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def two_machines() -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by one cable."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2 for a network namespace of its own")
    names = f"r3mes-a-{os.getpid()}", f"r3mes-b-{os.getpid()}"
    try:
        ip("netns", "add", names[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.decode().strip()}")
    try:
        ip("netns", "add", names[1])
        ip("-n", names[0], "link", "add", "lan", "type", "veth", "peer", "lan", "netns", names[1])
        for n, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{n}/24", "dev", "lan")
            ip("-n", name, "link", "set", "lan", "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "route", "add", "224.0.0.0/4", "dev", "lan")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.net
@pytest.mark.slow
async def test_two_nodes_on_a_lan_find_each_other(two_machines: tuple[str, str]) -> None:
    found: dict[int, str] = {}

    async def machine(name: str, seed: int) -> None:
        command = ["ip", "netns", "exec", name, sys.executable, str(LAN_PEER), str(seed)]
        ran = await trio.run_process(command, capture_stdout=True)
        found[seed] = ran.stdout.decode()

    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            for seed, name in enumerate(two_machines, 1):
                nursery.start_soon(machine, name, seed)
    assert found == {
        1: f"/ip4/10.77.0.2/tcp/7330/p2p/{B}",
        2: f"/ip4/10.77.0.1/tcp/7330/p2p/{A}",
    }
