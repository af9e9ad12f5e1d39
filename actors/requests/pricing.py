"""What an answer costs, and the digest that its receipt carries."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence


def price_of(
    *, prompt_tokens: int, completion_tokens: int, price_prompt: int, price_completion: int
) -> int:
    """Uremes for so many tokens, rounded up; prices are uremes per million tokens."""
    millionths = prompt_tokens * price_prompt + completion_tokens * price_completion
    return -(-millionths // 1_000_000)


def output_digest(ids: Sequence[int]) -> bytes:
    """SHA-256 over the answer's token ids as little-endian u32."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).digest()
