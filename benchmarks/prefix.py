"""The first token of a second request that begins as another one did."""

from __future__ import annotations

from random import Random
from statistics import median

import trio

from benchmarks.asking import Endpoint, at_once, play
from benchmarks.contestants import OurDaemon
from benchmarks.report import say
from benchmarks.shapes import prompt

SHARED, OWN = 1000, 24
"""Tokens of the beginning and of what follows."""


def prefix_speedup(daemon: OurDaemon, pairs: int) -> float:
    """First token of the first over that of the second request, the median of ``pairs``."""
    random = Random(1000)  # noqa: S311  words, not secrets
    speedups = []
    for _ in range(pairs):
        beginning = prompt(random, SHARED)
        first, second = (
            _first_token_s(daemon.endpoint(4), f"{beginning} {prompt(random, OWN)}")
            for _ in range(2)
        )
        say(f"first token {first * 1000:.0f} ms, with the same beginning {second * 1000:.0f} ms")
        speedups.append(first / second)
    return round(median(speedups), 2)


def _first_token_s(endpoint: Endpoint, text: str) -> float:
    (answer,) = trio.run(play, endpoint, at_once([text]))
    return answer.first_s
