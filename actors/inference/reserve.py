"""How much memory keys and values may take, and how much an answer will.

An answer is expected to have its prompt and some tokens more, not all that it may have: who leaves
``max_tokens`` out means "as many as it takes", and would otherwise reserve the whole context.
Where that was too little, the engine puts an answer back and reads it again, which costs time and
changes no bit.
"""

from __future__ import annotations

ANSWER = 512
"""Tokens that an answer is expected to take at most; four of five chat answers are shorter."""


def expected(tokens: int, left: int) -> int:
    """Tokens of an answer in the end, that has so many and may get ``left`` more."""
    return tokens + min(left, ANSWER)
