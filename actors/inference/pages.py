"""Tensors whose memory is taken page by page, as it is written, and can be given back in part.

So each answer may be as long as the context, and a slot costs what was written into it: nothing is
doubled, copied or paid for in advance.  Only main memory can do that.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch

NORESERVE = 0x4000
"""Linux ``MAP_NORESERVE``, which Python names from 3.13 on: most of it will never be taken."""


class Paged:
    """A tensor of zeros, along whose first axis memory can be given back.

    Args:
        shape: at least two axes.
        dtype: of its entries.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        self._row = math.prod(shape[1:]) * dtype.itemsize
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
        self._map = mmap.mmap(-1, shape[0] * self._row, flags=flags)
        # With huge pages the first token of a slot would take 2 MiB in each layer.
        self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self.tensor = torch.frombuffer(self._map, dtype=dtype).view(*shape)

    def give_back(self, row: int, kept: int = 0) -> None:
        """Make a row, but for the first ``kept`` of its second axis, zeros that take no memory.

        What shares a page with others stays.
        """
        page, kept_bytes = mmap.PAGESIZE, kept * (self._row // self.tensor.shape[1])
        begin = -(-(row * self._row + kept_bytes) // page) * page
        end = (row + 1) * self._row // page * page
        if end > begin:
            self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)
