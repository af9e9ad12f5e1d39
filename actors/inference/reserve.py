"""How much memory keys and values may take, and how much an answer will.

An answer is expected to have its prompt and some tokens more, not all that it may have: who leaves
``max_tokens`` out means "as many as it takes", and would otherwise reserve the whole context.
Where that was too little, the engine puts an answer back and reads it again, which costs time and
changes no bit.
"""

from __future__ import annotations

SHORT, LONG = 64, 512
"""Room is taken in multiples of the first up to the second, and of the second above it."""
ANSWER = 512
"""Tokens that an answer is expected to take at most; four of five chat answers are shorter."""
LEAST = 512 << 20
"""Bytes that even small models may keep: prompts that begin alike are common."""


def padded(tokens: int) -> int:
    """The room for so many tokens."""
    step = SHORT if tokens <= LONG else LONG
    return -(-tokens // step) * step


def fitting(room: int) -> int:
    """The most tokens that ``room`` holds."""
    return room // LONG * LONG if room >= LONG else room // SHORT * SHORT


def expected(tokens: int, left: int) -> int:
    """Room that an answer takes in the end, that has so many tokens and may get ``left`` more."""
    return padded(tokens + min(left, ANSWER))


def budget(*, weights: int, free: float, left: float) -> int:
    """Bytes for keys and values, where the operator names none: about what the model itself takes.

    Args:
        weights: bytes of the model.
        free: bytes of main memory that nobody uses; three quarters stay with others.
        left: bytes up to the cap of the worker; half of them are for computing.
    """
    return int(min(max(weights, LEAST), free / 4, left / 2))
