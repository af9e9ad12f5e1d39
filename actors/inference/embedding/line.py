"""Texts that wait to be embedded: whoever asked takes turns, row by row.

So a request of one text waits for the batch that runs and for no one's thousand texts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import trio

from r3mes.errors import R3mesError

ID_BYTES = 4


@dataclass(eq=False, slots=True)
class Ticket:
    """A request, shared by the actor and the one who waits for it.

    Args:
        rows: packed token ids of each text.
        deadline: on trio's clock; vectors that come later are worthless.
        suspect: a worker died with rows of it and of others; from then on it has batches of its
            own, so that only the culprit is told.
    """

    rows: Sequence[bytes]
    deadline: float
    suspect: bool = False
    vectors: dict[int, bytes] = field(default_factory=dict)
    error: R3mesError | None = None
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def tokens(self) -> int:
        return sum(map(len, self.rows)) // ID_BYTES

    def put(self, row: int, vector: bytes) -> None:
        """One vector, f32 little-endian; the last one ends it."""
        self.vectors[row] = vector
        if len(self.vectors) == len(self.rows):
            self.ended.set()

    def fail(self, error: R3mesError) -> None:
        """Nothing more comes."""
        self.error = error
        self.ended.set()


Batch: TypeAlias = list[tuple[Ticket, int]]
"""Rows that are embedded together: whose, and which of his."""


class Line:
    """Who waits, and for which rows."""

    def __init__(self) -> None:
        self._left: deque[tuple[Ticket, deque[int]]] = deque()

    def __len__(self) -> int:
        return len(self._left)

    @property
    def tokens(self) -> int:
        return sum(len(ticket.rows[row]) for ticket, rows in self._left for row in rows) // ID_BYTES

    def add(self, ticket: Ticket) -> None:
        """At the end; its rows by length, so that a batch has little padding."""
        by_length = sorted(range(len(ticket.rows)), key=lambda row: len(ticket.rows[row]))
        self._left.append((ticket, deque(by_length)))

    def put_back(self, batch: Batch) -> None:
        """At the front, for a batch whose worker died."""
        rows: dict[Ticket, list[int]] = {}
        for ticket, row in batch:
            rows.setdefault(ticket, []).append(row)
        for ticket, again in rows.items():
            left = self._drop(ticket)
            self._left.appendleft((ticket, deque([*again, *left])))

    def remove(self, ticket: Ticket) -> None:
        """Nobody waits for it any more."""
        self._drop(ticket)

    def _drop(self, ticket: Ticket) -> deque[int]:
        for at, (other, rows) in enumerate(self._left):
            if other is ticket:
                del self._left[at]
                return rows
        return deque()

    def clear(self) -> list[Ticket]:
        """All who waited, in their order."""
        tickets = [ticket for ticket, _ in self._left]
        self._left.clear()
        return tickets

    def take(self, most_tokens: int) -> Batch:
        """The next batch: at least one row, at most ``most_tokens`` with padding."""
        batch: Batch = []
        longest = 0
        while self._left:
            ticket, rows = self._left[0]
            longest = max(longest, len(ticket.rows[rows[0]]) // ID_BYTES)
            full = longest * (len(batch) + 1) > most_tokens
            if batch and (full or not _go_together(batch[0][0], ticket)):
                break
            self._left.popleft()
            batch.append((ticket, rows.popleft()))
            if rows:
                again = self._left.appendleft if ticket.suspect else self._left.append
                again((ticket, rows))
        return batch


def _go_together(one: Ticket, other: Ticket) -> bool:
    return one is other or not (one.suspect or other.suspect)
