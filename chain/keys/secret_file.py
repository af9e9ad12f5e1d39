"""Files that hold secrets, read only if they are for their owner alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from r3mes.errors import InsecureFile


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
