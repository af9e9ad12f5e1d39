"""Files with secrets: read only when nobody else can read them, written so that nobody can."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from r3mes.errors import ConfigError, InsecureFile

MAX_BYTES = 4096

NAME_ANOTHER = "name a file that is there and that this user can read"


def is_there(path: Path) -> bool:
    """Whether there is something at ``path``.

    Raises:
        ConfigError: that cannot be seen, for want of a permission for example.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        raise ConfigError(
            f"this user may not look for {path}",
            do="run it as the owner of that folder, or by sudo",
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    return True


def check_secret_file(path: Path) -> None:
    """See that ``path`` is a regular file that only its owner (and root) can read.

    Raises:
        InsecureFile: others can.
        ConfigError: it is not there or not a file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", do=NAME_ANOTHER) from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is not a regular file", do=NAME_ANOTHER)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise InsecureFile(
            f"{path} has mode {mode:04o}, so that other users can read the secret in it",
            do=f"run `chmod 600 {path}`",
        )


def read_secret(path: Path) -> str:
    """The secret in ``path``, without the line's end.

    Raises:
        InsecureFile: others can read the file.
        ConfigError: it is not there, empty or too long for a secret.
    """
    check_secret_file(path)
    return read_credential(path)


def read_credential(path: Path) -> str:
    """The same of a file that systemd made for this service alone.

    It lets its user in by an access list, which looks like a file that a group can read.

    Raises:
        ConfigError: it is not there, empty or too long for a secret.
    """
    try:
        text = path.read_bytes()[: MAX_BYTES + 1].decode().strip("\r\n")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", do=NAME_ANOTHER) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text file") from None
    if not text or len(text) > MAX_BYTES:
        raise ConfigError(f"{path} is {'too long' if text else 'empty'} for a secret")
    return text


def write_secret(path: Path, secret: str) -> None:
    """Create ``path`` with ``secret`` as its only line, as `create_secret` does."""
    create_secret(path, f"{secret}\n".encode())


def create_secret(path: Path, data: bytes) -> None:
    """Put ``data`` on the disk at ``path`` with mode 0600; a power cut leaves all of it or none.

    Raises:
        FileExistsError: there is something at ``path``; it was left as it is.
        OSError: it cannot be written.
    """
    with _draft(path, data) as draft:
        os.link(draft, path)  # unlike a rename, this fails if the name is taken


def replace_secret(path: Path, secret: str) -> None:
    """Put ``secret`` in the place of the one in ``path``; readers see one of the two, whole."""
    with _draft(path, f"{secret}\n".encode()) as draft:
        draft.replace(path)


@contextmanager
def _draft(path: Path, data: bytes) -> Iterator[Path]:
    """A file with ``data`` beside ``path``, on the disk; the block gives it its name."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
        yield draft
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Let new names in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
