"""What a verifier knows of delegated session keys: which hold, and what each has spent here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from r3mes.actors.requests.delegation import Delegation, decode_delegation
from r3mes.actors.requests.header import SKEW_MS, Header
from r3mes.errors import EnvelopeRefused, Overloaded
from r3mes.ids import PeerId

MAX_OPEN = 32
"""Reservations of one session that can still be settled; an older one stays spent in full."""


@dataclass(slots=True)
class _Spent:
    expires: int  # unix seconds
    uremes: int = 0
    open: dict[bytes, int] = field(default_factory=dict)  # by nonce, oldest first


class Sessions:
    """Checks requests that a session key signed.

    Args:
        chain: our chain id.
        audience: our peer id.
        revoked: whether the delegation of this hash was taken back; asked for each request.
        verified_cap: verified delegations kept; the one used least lately goes, and costs one
            more signature check when it returns.
        spending_cap: delegations whose spending is counted; they are never forgotten before they
            expire, so when this is full new ones are turned away.
    """

    def __init__(
        self,
        *,
        chain: str,
        audience: PeerId,
        revoked: Callable[[bytes], bool],
        verified_cap: int = 1_024,
        spending_cap: int = 10_000,
    ) -> None:
        self._chain, self._audience, self._revoked = chain, audience, revoked
        self._verified = lru_cache(verified_cap)(decode_delegation)  # failures are not kept
        self._spending_cap = spending_cap
        self._spent: dict[bytes, _Spent] = {}

    def check(self, header: Header, delegation: bytes, now_ms: int) -> Delegation:
        """What the account in ``header`` lent to the key that signed it.

        Raises:
            EnvelopeRefused: it did not, not for this, or not any more.
            Overloaded: too many delegations are in use.
        """
        if hashlib.sha256(delegation).digest() != header.parent:
            raise EnvelopeRefused("the delegation that the request names did not come with it")
        if self._revoked(header.parent):
            raise EnvelopeRefused("the delegation was revoked", do="sign a new delegation")
        lent = self._verified(delegation)
        if lent.account != header.sub or lent.session != header.pub:
            raise EnvelopeRefused("the delegation is for another account or session key")
        if lent.chain != self._chain or (lent.nodes and self._audience not in lent.nodes):
            raise EnvelopeRefused("the delegation is for other nodes or another chain")
        if not lent.issued * 1000 - SKEW_MS <= now_ms <= lent.expires * 1000:
            raise EnvelopeRefused("the delegation has expired", do="sign a new delegation")
        if self._spent_of(header.parent) + header.max_price > lent.limit:
            raise EnvelopeRefused(
                f"the spend limit of {lent.limit} uremes does not cover this request",
                do="sign a new delegation, or lower the price that the request allows",
            )
        if header.parent not in self._spent:
            self._make_room(now_ms)
        return lent

    def reserve(self, header: Header, lent: Delegation) -> None:
        """Count the highest price of an accepted request as spent; right after its `check`."""
        spent = self._spent.setdefault(header.parent, _Spent(lent.expires))
        spent.uremes += header.max_price
        spent.open[header.nonce] = header.max_price
        if len(spent.open) > MAX_OPEN:
            del spent.open[next(iter(spent.open))]

    def settle(self, header: Header, price: int) -> None:
        """Give back what a reserved request did not cost; only the first call for it counts."""
        if spent := self._spent.get(header.parent):
            reserved = spent.open.pop(header.nonce, 0)
            spent.uremes -= max(0, reserved - price)

    def _spent_of(self, parent: bytes) -> int:
        spent = self._spent.get(parent)
        return spent.uremes if spent else 0

    def _make_room(self, now_ms: int) -> None:
        if len(self._spent) < self._spending_cap:
            return
        # The expired may return only if the clock is set back, and then start from nothing.
        self._spent = {key: one for key, one in self._spent.items() if one.expires * 1000 > now_ms}
        if len(self._spent) >= self._spending_cap:
            raise Overloaded(f"{self._spending_cap} delegations are in use", retry_after_s=60.0)
