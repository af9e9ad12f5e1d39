"""Those who wait for one model, in the order of their turns: fair between owners.

Whoever got least so far is next, and a flood of one owner's requests holds up its own only.  An
owner that comes, or comes back, is not given what it did not use before.  When the queue is full,
the newest request of the owner with the most of them makes room for one with fewer.

Source: Goyal, Vin and Cheng 1996, "Start-time Fair Queuing"; service is counted in tokens, and what
was expected is corrected by what was written.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

from r3mes.actors.inference.generation import Ticket
from r3mes.actors.inference.reserve import ANSWER

READ = 8
"""Tokens of a prompt that are as much work as one that is written, about."""


OWNERS = 1024
"""Whose use is remembered while there is always something to do; above it, that of the smaller
half is forgotten: identities are cheap."""


class Turns(MutableMapping[int, Ticket]):
    """Tickets by their ids; iterates in the order of their turns."""

    def __init__(self) -> None:
        self._owners: dict[bytes, dict[int, Ticket]] = {}
        self._whose: dict[int, bytes] = {}
        self._finishes: dict[bytes, float] = {}
        self._now = 0.0  # where the one that began last started
        self._begun = 0

    def __len__(self) -> int:
        return len(self._whose)

    def __getitem__(self, ticket_id: int) -> Ticket:
        return self._owners[self._whose[ticket_id]][ticket_id]

    def __setitem__(self, ticket_id: int, ticket: Ticket) -> None:
        owner = ticket.start.owner
        self._owners.setdefault(owner, {})[ticket_id] = ticket
        self._whose[ticket_id] = owner

    def __delitem__(self, ticket_id: int) -> None:
        owner = self._whose.pop(ticket_id)
        del self._owners[owner][ticket_id]
        if not self._owners[owner]:
            del self._owners[owner]

    def __iter__(self) -> Iterator[int]:
        # Owners of equal claim by who came first: a dict keeps its order, and a sort does.
        for owner in sorted(self._owners, key=self._claim):
            yield from tuple(self._owners.get(owner, ()))

    def _claim(self, owner: bytes) -> float:
        return max(self._now, self._finishes.get(owner, 0.0))

    def begin(self, ticket: Ticket) -> None:
        """Count what the answer is expected to cost."""
        self._begun += 1
        owner = ticket.start.owner
        self._now = max(self._now, self._claim(owner))
        self._finishes[owner] = self._claim(owner) + _cost(ticket, ticket.start.max_new)
        if len(self._finishes) > OWNERS:
            self._now = sorted(self._finishes.values())[len(self._finishes) // 2]
        behind = [one for one, finish in self._finishes.items() if finish <= self._now]
        for one in behind:
            del self._finishes[one]

    def put_back(self, ticket: Ticket) -> None:
        """Let it wait again, before others of its owner, as if it had not begun."""
        self._begun -= 1
        owner = ticket.start.owner
        if owner in self._finishes:
            self._finishes[owner] -= _cost(ticket, ticket.start.max_new)
        self._owners[owner] = {ticket.start.id: ticket} | self._owners.get(owner, {})
        self._whose[ticket.start.id] = owner

    def end(self, ticket: Ticket) -> None:
        """Count what it did cost."""
        owner, start = ticket.start.owner, ticket.start
        if owner in self._finishes:
            written = ticket.position - len(start.emitted) // 4
            self._finishes[owner] += _cost(ticket, written) - _cost(ticket, start.max_new)
        self._begun -= 1
        if not self._begun and not self._whose:
            self._finishes.clear()  # nobody is ahead of anybody when all have what they wanted
            self._now = 0.0

    def ahead(self, owner: bytes) -> int:
        """How many of those that wait would go before another of this owner, about."""
        own = len(self._owners.get(owner, ()))
        return sum(min(len(tickets), own + 1) for tickets in self._owners.values())

    def to_displace(self, owner: bytes) -> Ticket | None:
        """Who makes room for another of this owner, if its owner has more waiting than that."""
        if not self._owners:
            return None
        own = len(self._owners.get(owner, ()))
        most = max(self._owners.values(), key=len)
        return next(reversed(most.values())) if len(most) > own + 1 else None


def _cost(ticket: Ticket, most: int) -> float:
    start = ticket.start
    return len(start.prompt) // 4 / READ + min(most, ANSWER)
