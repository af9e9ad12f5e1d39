"""The data directory: where its files are, and that one node at a time uses them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from r3mes.errors import DataDirLocked, StoreError

DATABASE = "r3mes.sqlite3"
LOCK = "lock"
BACKUPS = "backups"


@contextmanager
def locked(datadir: Path) -> Iterator[None]:
    """Hold the directory for this process; the kernel lets go of it however the process ends.

    Raises:
        DataDirLocked: a running process, named in the error, holds it.
        StoreError: it cannot be created or written.
    """
    try:
        datadir.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(datadir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"the data directory {datadir} cannot be used: {error.strerror}",
            do="let this user write there, or choose another directory with --datadir",
        ) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise DataDirLocked(f"{datadir} is in use by the process with pid {holder}") from None
        with suppress(OSError):  # a full disk takes not even this, and the lock holds without it
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
