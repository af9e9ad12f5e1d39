"""Files that are there whole, and stay so over a power cut."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from r3mes.config.secrets import sync_folder

OLD_S = 86_400
"""No backup takes so long; a folder to work in that is older belongs to nobody."""


@contextmanager
def workplace(datadir: Path, prefix: str) -> Iterator[Path]:
    """A folder in ``datadir`` to work in, gone after the block.

    A kill or a power cut leaves it, with copies of keys: old ones of this ``prefix`` go as well.
    """
    for left in datadir.glob(f"{prefix}*"):
        with suppress(OSError):  # somebody else may be at it
            if time.time() - left.stat().st_mtime > OLD_S:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=datadir) as folder:
        yield Path(folder)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A new file of mode 0600, on the disk when the block ends.

    Raises:
        FileExistsError: there is one.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        yield file
        file.flush()
        os.fsync(handle)


def put(source: Path, place: Path) -> None:
    """Copy ``source`` to ``place``, which may be on another disk; readers see all of it or none."""
    draft = place.with_name(f".{place.name}.part")
    draft.unlink(missing_ok=True)
    with source.open("rb") as content, new_file(draft) as out:
        shutil.copyfileobj(content, out)
    os.rename(draft, place)


def put_new(source: Path, place: Path) -> None:
    """Copy ``source`` to the new file ``place``, which may be on another disk.

    Raises:
        FileExistsError: somebody has taken the name meanwhile; the file of that name stays.
    """
    draft = place.with_name(f".{place.name}.part")
    draft.unlink(missing_ok=True)
    try:
        with source.open("rb") as content, new_file(draft) as out:
            shutil.copyfileobj(content, out)
        _name(draft, place)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(place.parent)


def _name(draft: Path, place: Path) -> None:
    try:
        os.link(draft, place)  # unlike a rename, this fails if the name is taken
    except FileExistsError:
        raise
    except OSError:  # a disk without links, such as a memory stick
        if place.exists():
            raise
        os.rename(draft, place)
