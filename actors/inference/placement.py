"""Which GPU each model gets: computed once from what is free, before any worker starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

AUTO = "auto"
HEADROOM = 1.2
"""Times its weights a model takes at least, with the keys and values of its answers."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A model that wants a place.

    Args:
        device: ``auto``, or the one that the operator chose.
        needed_bytes: of its weights.
    """

    name: str
    device: str
    needed_bytes: int


def place(wishes: Sequence[Wish], free: Mapping[str, int]) -> dict[str, str]:
    """A device for each model, by its name.

    The largest choose first, each the device with most memory left.  What fits nowhere stays
    ``auto``: its worker takes the first device and says why it does not fit.

    Args:
        wishes: every model; those with a device of their own take from it.
        free: bytes by device, such as ``cuda:0``; empty without a GPU.
    """
    left, placed = dict(free), dict[str, str]()
    for wish in sorted(wishes, key=lambda one: (one.device == AUTO, -one.needed_bytes)):
        placed[wish.name] = wish.device
        room = max(left, key=lambda device: left[device], default=AUTO)
        if wish.device == AUTO and room in left and left[room] >= HEADROOM * wish.needed_bytes:
            placed[wish.name] = room
        chosen = "cuda:0" if placed[wish.name] == "cuda" else placed[wish.name]
        if chosen in left:
            left[chosen] -= int(HEADROOM * wish.needed_bytes)
    return placed
