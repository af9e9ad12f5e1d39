"""Peers that the operator wants nothing to do with, for a time or for good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial

import trio

from r3mes.actors.store import Connection, Store
from r3mes.errors import BadRequest, NotFound
from r3mes.ids import PeerId
from r3mes.p2p.identity import is_peer_id

REASON_CAP = 256
"""Characters."""
LONGEST_S = 100 * 365 * 86400


@dataclass(frozen=True, slots=True)
class Ban:
    """One ban; the fields are the columns of the table.  Without ``until_ms`` it does not end."""

    peer_id: PeerId
    reason: str
    since_ms: int
    until_ms: int | None


class Bans:
    """The bans in the store, kept in memory: `holds` is asked at every handshake.

    Args:
        store: where they are kept; its errors pass through.
        own: this node, which is never banned.
        now_ms: the wall clock, in unix milliseconds.
    """

    def __init__(self, store: Store, *, own: PeerId, now_ms: Callable[[], int]) -> None:
        self._store, self._own, self._now_ms = store, own, now_ms
        self._known: dict[PeerId, Ban] = {}

    async def load(self) -> None:
        """Remember what the store knows; before the first peer is let in."""
        self._known = {ban.peer_id: ban for ban in await self._store.read(_all)}

    def holds(self, peer: PeerId) -> bool:
        """Whether ``peer`` is banned now."""
        ban = self._known.get(peer)
        return ban is not None and self._in_force(ban)

    def all(self) -> list[Ban]:
        """Those in force, the newest first."""
        bans = [ban for ban in self._known.values() if self._in_force(ban)]
        return sorted(bans, key=lambda ban: (-ban.since_ms, ban.peer_id))

    async def add(self, peer: PeerId, *, ttl_s: float | None = None, reason: str = "") -> Ban:
        """Ban ``peer`` from now on; the newest ban of a peer is the one that counts.

        Raises:
            BadRequest: no peer id, this node's own, a time that has no length, a long reason.
        """
        self._check(peer, ttl_s, reason)
        now = self._now_ms()
        ban = Ban(peer, reason, now, None if ttl_s is None else now + int(ttl_s * 1000))
        with trio.CancelScope(shield=True):  # the store takes its deadline at most
            await self._store.tx(partial(_add, ban))
            self._known[peer] = ban
        return ban

    async def lift(self, peer: PeerId) -> None:
        """End the ban of ``peer``.

        Raises:
            NotFound: it is not banned.
        """
        if not self.holds(peer):
            raise NotFound(
                f"{peer} is not banned", do="`r3mes peers bans` shows who is", param="peer_id"
            )
        with trio.CancelScope(shield=True):
            await self._store.tx(partial(_lift, peer))
            self._known.pop(peer, None)

    def _in_force(self, ban: Ban) -> bool:
        return ban.until_ms is None or self._now_ms() < ban.until_ms

    def _check(self, peer: PeerId, ttl_s: float | None, reason: str) -> None:
        if not is_peer_id(peer):
            raise BadRequest(f"{peer[:64]!r} is not a peer id", param="peer_id")
        if peer == self._own:
            raise BadRequest("that is this node itself", param="peer_id")
        if ttl_s is not None and not 0.001 <= ttl_s <= LONGEST_S:
            raise BadRequest("ttl_s is not a number of seconds up to 100 years", param="ttl_s")
        if len(reason) > REASON_CAP:
            raise BadRequest(f"the reason is longer than {REASON_CAP} characters", param="reason")


def _all(connection: Connection) -> list[Ban]:
    rows = connection.execute("SELECT peer_id, reason, since_ms, until_ms FROM ban")
    return [Ban(PeerId(peer), *rest) for peer, *rest in rows]


def _add(ban: Ban, connection: Connection) -> None:
    connection.execute("DELETE FROM ban WHERE until_ms <= ?", (ban.since_ms,))
    connection.execute("INSERT OR REPLACE INTO ban VALUES (?, ?, ?, ?)", astuple(ban))


def _lift(peer: PeerId, connection: Connection) -> None:
    connection.execute("DELETE FROM ban WHERE peer_id = ?", (peer,))
