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
        loaded: SHA-256, in hex, of each file that counts, when it was loaded.
        files: the same of what is there now.
    """

    directory: Path
    loaded: Mapping[str, str]
    files: Mapping[str, str]

    @property
    def ok(self) -> bool:
        return self.loaded == self.files

    @property
    def expected(self) -> ModelHash:
        """The hash of what was loaded."""
        return hash_of(self.loaded)

    @property
    def found(self) -> ModelHash:
        """The hash of what is there now."""
        return hash_of(self.files)

    @property
    def differing(self) -> dict[str, str]:
        """The files that are not as they were loaded: ``changed``, ``missing`` or ``added``."""
        return differences(self.loaded, self.files)


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Which files are ``changed``, ``missing`` or ``added``, by their digests."""
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return {name: _difference(name, before, now) for name in names}


def _difference(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    if name not in now:
        return "missing"
    return "changed" if name in before else "added"


async def verify(
    directory: Path, loaded: Mapping[str, str], *, limiter: trio.CapacityLimiter
) -> Verification:
    """Read all files in ``directory``; takes as long as the disk does, and gives way to a cancel.

    Args:
        directory: with the model's files.
        loaded: SHA-256 of what was loaded, by the names of the files.
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
    return Verification(directory, loaded, files)
