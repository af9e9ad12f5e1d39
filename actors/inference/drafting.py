"""What an answer will probably say next, as it said or was told the same before.

A draft costs a row for each token in a call of the model that is made anyway; the model then says
whether it was right, so that no bit of the answer depends on it.  Texts that quote, code and lists
gain most.  An answer that does not repeat anything is soon left alone.

Source: Saxena 2023, "Prompt Lookup Decoding"; how much is tried follows what held so far.
"""

from __future__ import annotations

from collections.abc import Sequence

AFTER = 3
"""Tokens that must be the same for the next ones to be tried."""
MOST = 8
"""Tokens of one draft."""
PAUSE = 32
"""Tokens for which most a draft is not tried after some that failed."""


class Draft:
    """Looks back in one answer."""

    def __init__(self) -> None:
        self._next: dict[tuple[int, ...], int] = {}
        self._known = AFTER
        self._size, self._pause, self._rest = 2, 0, 0

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """What may come behind ``tokens``, at most ``most`` of it; empty for no idea."""
        for at in range(self._known, len(tokens)):
            self._next[tuple(tokens[at - AFTER : at])] = at
        self._known = max(self._known, len(tokens))
        if self._rest > 0:
            self._rest -= 1
            return []
        before = self._next.get(tuple(tokens[-AFTER:]))
        if before is None:
            return []
        period = len(tokens) - before  # what goes round in circles goes on so
        return [tokens[before + i % period] for i in range(min(self._size, most))]

    def learn(self, tried: int, right: int) -> None:
        """Of ``tried`` tokens the first ``right`` were what the answer went on with."""
        if right == tried:
            self._size, self._pause = min(2 * self._size, MOST), 0
        elif right:
            self._size, self._pause = max(2, right), 0
        else:
            self._size, self._pause = 2, min(2 * self._pause + 1, PAUSE)
            self._rest = self._pause
