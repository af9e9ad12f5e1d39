"""Remembers the nonces of requests, so that each is served once.

Two generations of keyed fingerprints: nonces go into the young one, and every window the old one
is dropped.  Nothing is ever dropped earlier to make room: when a generation is full the node says
that it is busy, which is better than to serve a request twice.

It holds across a restart without a disk, because requests name the boot epoch of the node.  It
holds when the clock jumps, because requests as old as a dropped generation stay refused, whatever
the clock says.

Cost: 90 bytes per nonce; 200 000 per generation are 18 MB.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from r3mes.errors import EnvelopeReplayed, Overloaded

WINDOW_MS = 180_000
"""A request can be accepted for its 120 s of life and a clock difference of 30 s at either end."""


@dataclass(slots=True)
class _Generation:
    started_ms: int
    seen: set[bytes] = field(default_factory=set)
    by_signer: dict[int, int] = field(default_factory=dict)
    last_exp_ms: int = 0


class ReplayGuard:
    """The nonce memory of one verifier.

    Args:
        now_ms: wall clock, unix milliseconds.
        capacity: nonces in one generation.
        per_signer: nonces of one account in both generations.
    """

    def __init__(
        self, now_ms: Callable[[], int], *, capacity: int = 200_000, per_signer: int = 4_000
    ) -> None:
        self._now_ms, self._capacity, self._per_signer = now_ms, capacity, per_signer
        # keyed, so that nobody outside can aim at a fingerprint
        self._hash = hashlib.blake2b(digest_size=16, key=secrets.token_bytes(32))
        self._young, self._old = _Generation(now_ms()), _Generation(0)
        self._dropped_exp_ms = 0

    def __len__(self) -> int:
        return len(self._young.seen) + len(self._old.seen)

    def remember(self, signer: str, nonce: bytes, exp_ms: int) -> None:
        """Take the nonce of a request whose signature holds.

        Raises:
            EnvelopeReplayed: it was taken before, or may have been.
            Overloaded: no room for it, of all signers or of this one.
        """
        self._age()
        young, old = self._young, self._old
        fingerprint = self._fingerprint(signer, nonce)
        if fingerprint in young.seen or fingerprint in old.seen:
            raise EnvelopeReplayed("the nonce of this request was used before")
        if exp_ms <= self._dropped_exp_ms:
            raise EnvelopeReplayed("this request is older than the memory of nonces")
        who = hash(signer)
        mine = young.by_signer.get(who, 0)
        if mine + old.by_signer.get(who, 0) >= self._per_signer:
            raise Overloaded(self._full(f"{self._per_signer} of this account"), retry_after_s=60.0)
        if len(young.seen) >= self._capacity:
            raise Overloaded(self._full(f"{self._capacity}"), retry_after_s=60.0)
        young.seen.add(fingerprint)
        young.by_signer[who] = mine + 1
        young.last_exp_ms = max(young.last_exp_ms, exp_ms)

    def _fingerprint(self, signer: str, nonce: bytes) -> bytes:
        keyed = self._hash.copy()
        keyed.update(signer.encode() + nonce)
        return keyed.digest()

    def _age(self) -> None:
        now = self._now_ms()
        age = now - self._young.started_ms
        if age < 0:  # the clock was set back: this generation lives longer
            self._young.started_ms = now
        elif age >= WINDOW_MS:
            self._dropped_exp_ms = max(self._dropped_exp_ms, self._old.last_exp_ms)
            self._young, self._old = _Generation(now), self._young

    @staticmethod
    def _full(how_many: str) -> str:
        return f"the memory of nonces is full: {how_many} requests within {WINDOW_MS // 1000} s"
