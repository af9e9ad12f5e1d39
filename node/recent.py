"""What became of requests lately, for the status; `r3mes.node.metrics` keeps the long record."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from statistics import median

import trio

from r3mes.actors.observing import Ended, Event, Routed

MINUTE_S = 60.0
KEPT = 10_000
"""Requests of the last minute that are kept at most; of more, the newest are counted."""


@dataclass(frozen=True, slots=True)
class LastMinute:
    """Requests of applications and peers that ended within the last 60 seconds.

    Args:
        refused: by this node or all that it asked; whoever asked is at fault, or load is.
        failed: for another reason.
        ttft_p50_s: half of the answers had their first token within it; None without answers.
    """

    ok: int
    cancelled: int
    refused: int
    failed: int
    ttft_p50_s: float | None


class Recent:
    """Listens to requests.

    Attributes:
        served: answers to peers, since the start.
        asked: requests that a peer took, since the start.
    """

    def __init__(self) -> None:
        self.served = self.asked = 0
        self._ended: deque[tuple[float, Ended]] = deque(maxlen=KEPT)

    def observe(self, event: Event) -> None:
        """What happened to a request."""
        match event:
            case Ended(source="api" | "peer"):  # what the node asks itself, it sees as "api" too
                self._ended.append((trio.current_time(), event))
                self.served += event.source == "peer" and event.outcome == "ok"
            case Routed(result="peer"):
                self.asked += 1
            case _:
                pass

    def last_minute(self) -> LastMinute:
        """Sums up."""
        while self._ended and self._ended[0][0] < trio.current_time() - MINUTE_S:
            self._ended.popleft()
        outcomes = Counter(event.outcome for _, event in self._ended)
        waits = [event.first_token_s for _, event in self._ended if event.first_token_s is not None]
        return LastMinute(
            ok=outcomes["ok"],
            cancelled=outcomes["cancelled"],
            refused=outcomes["refused"],
            failed=outcomes["failed"],
            ttft_p50_s=round(median(waits), 3) if waits else None,
        )
