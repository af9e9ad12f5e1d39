"""How often a key and an address may ask: counted in memory, a minute at a time.

A minute begins with the first request in it.  Whoever is over the limit is told when it ends; what
is asked until then is refused and costs little.

Source: names and form of the headers, OpenAI API reference, "Rate limits in headers".
"""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass
from math import ceil

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.types import Message, Scope, Send

from r3mes.config.schema import Limits
from r3mes.node.http.ports import ApiKey

NOWHERE = "unknown"
CLOCK_SLACK_S = 1.0


@dataclass(frozen=True, slots=True)
class Window:
    """The minute in which a request falls.

    Args:
        limit: requests in it.
        remaining: how many are left.
        reset_s: seconds until the next one begins.
        exceeded: whether this request was over the limit.
    """

    limit: int
    remaining: int
    reset_s: float
    exceeded: bool

    def telling(self, send: Send) -> Send:
        """``send``, with a response that says how much is left."""
        headers = [
            (b"x-ratelimit-limit-requests", b"%d" % self.limit),
            (b"x-ratelimit-remaining-requests", b"%d" % self.remaining),
            (b"x-ratelimit-reset-requests", b"%ds" % ceil(self.reset_s)),
        ]

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        return sending


class Rates:
    """Counts requests against the limits.

    Args:
        limits: those in force; may be replaced while it counts.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._storage = MemoryStorage()
        self._counts = FixedWindowRateLimiter(self._storage)
        self._latest = time.time()

    def of_key(self, key: ApiKey) -> Window | None:
        """Count a request of ``key``; None if there is no limit."""
        return self._hit(key.rpm or self.limits.rpm_per_key, "key", key.id or "")

    def of_address(self, address: str) -> Window | None:
        """Count a request from ``address``, whatever its key."""
        return self._hit(self.limits.rpm_per_address, "address", address)

    def of_failures(self, address: str) -> Window | None:
        """Count a request from ``address`` without a right key."""
        return self._hit(self.limits.auth_failures_per_address, "failure", address)

    def _hit(self, per_minute: int, what: str, who: str) -> Window | None:
        if not per_minute:
            return None
        self._heed_clock()
        item: RateLimitItem = RateLimitItemPerMinute(per_minute)
        within = self._counts.hit(item, what, who)
        minute = self._counts.get_window_stats(item, what, who)
        reset_s = max(0.0, minute.reset_time - time.time())
        return Window(per_minute, minute.remaining, reset_s, exceeded=not within)

    def _heed_clock(self) -> None:
        """Start afresh when the clock was set back: minutes begun before would last too long."""
        now = time.time()
        if now < self._latest - CLOCK_SLACK_S:
            self._storage.reset()
        self._latest = now


def address_of(scope: Scope) -> str:
    """Where a request comes from; of IPv6 the /64, in which one machine may have every address."""
    host = (scope.get("client") or (NOWHERE,))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return NOWHERE
    if isinstance(address, ipaddress.IPv4Address) or address.is_loopback:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def is_loopback(scope: Scope) -> bool:
    """Whether a request comes from this machine."""
    address = address_of(scope)
    return "/" not in address and address != NOWHERE and ipaddress.ip_address(address).is_loopback
