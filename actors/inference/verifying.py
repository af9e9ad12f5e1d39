"""Are the files still those that were loaded?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from r3mes.actors.inference.files import digests, hash_of
from r3mes.errors import ModelMissing
from r3mes.ids import ModelHash


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found.

    Args:
        directory: where the files are.
        expected: the hash of what was loaded.
        found: the hash of what is there now.
        files: SHA-256 of each file that counts, in hex.
    """

    directory: Path
    expected: ModelHash
    found: ModelHash
    files: Mapping[str, str]

    @property
    def ok(self) -> bool:
        return self.expected == self.found


async def verify(
    directory: Path, expected: ModelHash, *, limiter: trio.CapacityLimiter
) -> Verification:
    """Read all files in ``directory``; takes as long as the disk does, and gives way to a cancel.

    Args:
        directory: with the model's files.
        expected: the hash of what was loaded.
        limiter: how many are read at the same time, those included that a cancel left behind.

    Raises:
        ModelMissing: one cannot be read.
    """
    try:
        files = await trio.to_thread.run_sync(
            partial(digests, directory), abandon_on_cancel=True, limiter=limiter
        )
    except OSError as error:
        raise ModelMissing(
            f"a file of the model cannot be read: {error}", do="put the model's files back"
        ) from error
    return Verification(directory, expected, hash_of(files), files)
