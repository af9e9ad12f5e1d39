"""Bans: kept over restarts, for a time or for good, of peers alone."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from r3mes.actors.bans import Bans
from r3mes.actors.store import open_store
from r3mes.errors import BadRequest, NotFound
from r3mes.ids import PeerId
from r3mes.p2p.identity import NodeKey

OWN, BOB, CAROL = (NodeKey(os.urandom(32)).peer_id for _ in range(3))


class Clock:
    ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


async def test_bans_hold_over_a_restart_until_they_end_or_are_lifted(tmp_path: Path) -> None:
    clock = Clock()
    async with open_store(tmp_path) as store:
        bans = Bans(store, own=OWN, now_ms=clock)
        await bans.add(BOB, reason="floods us")
        clock.ms += 1
        await bans.add(CAROL, ttl_s=60)
        assert (bans.holds(BOB), bans.holds(CAROL), bans.holds(OWN)) == (True, True, False)
    async with open_store(tmp_path) as store:
        bans = Bans(store, own=OWN, now_ms=clock)
        await bans.load()
        assert [(ban.peer_id, ban.reason) for ban in bans.all()] == [
            (CAROL, ""),
            (BOB, "floods us"),
        ]
        clock.ms += 60_000
        assert [ban.peer_id for ban in bans.all()] == [BOB]
        with pytest.raises(NotFound):
            await bans.lift(CAROL)
        await bans.lift(BOB)
        assert not bans.holds(BOB)
        await bans.load()
        assert bans.all() == []


async def test_the_newest_ban_of_a_peer_counts(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        bans = Bans(store, own=OWN, now_ms=Clock())
        await bans.add(BOB)
        await bans.add(BOB, ttl_s=5)
        await bans.load()
        (ban,) = bans.all()
        assert ban.until_ms == 1_005_000


@pytest.mark.parametrize(
    ("peer", "ttl_s", "reason", "param"),
    [
        ("own", None, "", "peer_id"),
        ("bob ", None, "", "peer_id"),
        ("", None, "", "peer_id"),
        ("1" * 100_000, None, "", "peer_id"),
        ("bob", 0.0, "", "ttl_s"),
        ("bob", -1.0, "", "ttl_s"),
        ("bob", math.nan, "", "ttl_s"),
        ("bob", math.inf, "", "ttl_s"),
        ("bob", None, "x" * 257, "reason"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    tmp_path: Path, peer: str, ttl_s: float | None, reason: str, param: str
) -> None:
    named = {"own": OWN, "bob": BOB, "bob ": BOB + " "}
    async with open_store(tmp_path) as store:
        bans = Bans(store, own=OWN, now_ms=Clock())
        with pytest.raises(BadRequest) as refused:
            await bans.add(PeerId(named.get(peer, peer)), ttl_s=ttl_s, reason=reason)
    assert refused.value.param == param
    assert bans.all() == []
