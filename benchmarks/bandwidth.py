"""How fast two threads read memory: no engine can write tokens faster than it reads its weights."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

THREADS = 2
BYTES = 256 * 2**20
"""Far more than any cache holds."""


def read_rate(times: int = 12) -> float:
    """Bytes per second, the best of ``times`` tries."""
    words = np.ones(BYTES // 8, np.int64)
    halves = np.array_split(words, THREADS)
    best = 0.0
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(times):
            begun = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, halves))  # one instruction per word, as few can
            best = max(best, BYTES / (time.perf_counter() - begun))
    return best
