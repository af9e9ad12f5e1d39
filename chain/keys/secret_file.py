"""Files that hold secrets: they appear whole, for their owner alone, and replace nothing."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from r3mes.errors import InsecureFile


def create_secret(path: Path, data: bytes) -> None:
    """Put ``data`` on the disk at ``path`` with mode 0600; a power cut leaves all of it or none.

    Raises:
        FileExistsError: there is a file at ``path``; it was left as it is.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
        os.link(draft, path)  # unlike a rename, this fails if the name is taken
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def read_secret(path: Path, *, cap: int) -> bytes:
    """Read at most ``cap`` bytes of a file that only its owner may read.

    Raises:
        InsecureFile: its mode lets others read or write it.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:  # the mode of what was opened, not of what has its name later
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise InsecureFile(f"{path} has mode {mode:04o}", do=f"run chmod 600 {path}")
        return file.read(cap)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
