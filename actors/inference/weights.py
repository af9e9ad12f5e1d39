"""What safetensors files hold, by their headers: cheap, without torch, and nothing runs.

Source: the format's description in the README of ``huggingface/safetensors``: eight bytes with the
length of a JSON header, the header, then the data of all tensors without gaps.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import msgspec

from r3mes.actors.inference.files import WEIGHTS
from r3mes.errors import ModelInvalid

HEADER_CAP = 100_000_000
"""Bytes; the library that loads them has the same."""


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file; ``bytes`` as it is stored."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


def read_headers(directory: Path) -> dict[str, list[Tensor]]:
    """The tensors of every weights file, by the file's name.

    Raises:
        ModelInvalid: one is not of the format, or cut off.
    """
    return {file.name: _tensors(file) for file in sorted(directory.glob(WEIGHTS))}


def _tensors(path: Path) -> list[Tensor]:
    with path.open("rb") as file:
        size = path.stat().st_size
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > min(HEADER_CAP, size - 8):
            raise ModelInvalid(f"{path} cannot be loaded: it is cut off, or no safetensors file")
        try:
            header = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
            header.pop("__metadata__", None)
            entries = [msgspec.json.decode(raw, type=_Entry) for raw in header.values()]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ModelInvalid(f"{path} cannot be loaded: its header is corrupt: {error}") from None
    end = max((entry.data_offsets[1] for entry in entries), default=0)
    if 8 + length + end != size:
        raise ModelInvalid(
            f"{path} cannot be loaded: it has {size} bytes and should have {8 + length + end}"
        )
    return [Tensor(one.dtype, one.shape, one.data_offsets[1] - one.data_offsets[0])
            for one in entries]  # fmt: skip
