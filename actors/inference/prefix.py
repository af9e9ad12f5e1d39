"""Keys and values of prompts' pieces that were read before, for prompts that begin alike.

A piece is known by everything that its keys and values depend on: its tokens, those before it and
the adapter; and by its owner, because how soon an answer begins would tell strangers what others
have asked.  The pieces have the borders by which prompts are read, so what is taken from here has
the bits that reading it again would give.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Generic, TypeVar

from r3mes.actors.inference.protocol import pack_ids

T = TypeVar("T")


def names_of(prompt: Sequence[int], size: int, *whose: bytes) -> list[bytes]:
    """A name for each whole piece of ``size`` tokens; ``whose`` tells prompts apart besides."""
    name = blake2b(b"".join(len(one).to_bytes(4, "big") + one for one in whose)).digest()
    names = []
    for begin in range(0, len(prompt) - size + 1, size):
        name = blake2b(name + pack_ids(prompt[begin : begin + size]), digest_size=32).digest()
        names.append(name)
    return names


class PrefixCache(Generic[T]):
    """What was kept of pieces, the one that was used last behind."""

    def __init__(self) -> None:
        self._pieces: OrderedDict[bytes, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pieces)

    def find(self, names: Sequence[bytes]) -> T | None:
        """What was kept of the last of a prompt's first pieces."""
        found = self._pieces.get(names[-1])
        if found is not None:
            self._touch(names)
        return found

    def keep(self, names: Sequence[bytes], piece: T) -> None:
        """Keep the last of a prompt's first pieces."""
        self._pieces[names[-1]] = piece
        self._touch(names)

    def drop_oldest(self) -> None:
        """Forget the piece that was not used for longest."""
        self._pieces.popitem(last=False)

    def _touch(self, names: Sequence[bytes]) -> None:
        # The first piece last: those behind it are of no use without it.
        for name in reversed(names):
            if name in self._pieces:
                self._pieces.move_to_end(name)
