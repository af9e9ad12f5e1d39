"""A listening socket in the file system, which its owner and group may open and nobody else.

Linux gives a socket's file the mode of the socket less the umask.  The mode is set before the name
exists, so at no moment may others open it, and the umask, which threads share, stays as it is.

Source: Linux 6.x ``net/unix/af_unix.c``, unix_bind_bsd; unix(7).
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from r3mes.errors import ConfigError, PortInUse

MODE = 0o660
MAX_PATH_BYTES = 107


def bind_unix(path: Path, *, backlog: int) -> socket.socket:
    """A socket that listens at ``path``; what a dead process left there is replaced.

    Raises:
        PortInUse: somebody listens there.
        ConfigError: the path is too long, or cannot be written, or has a file that is no socket.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ConfigError(
            f"the admin socket {path} has a path of more than {MAX_PATH_BYTES} bytes, which the "
            "system does not allow",
            do="set api.admin_socket to a shorter path",
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), MODE)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_room(path)
        listener.bind(os.fspath(path))
        path.chmod(MODE)  # the umask may have taken the group's part
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise ConfigError(f"the admin socket {path} cannot be made: {error.strerror}") from None
    except (ConfigError, PortInUse):
        listener.close()
        raise
    return listener


def _make_room(path: Path) -> None:
    """Remove the socket of a process that is gone."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"the admin socket cannot be made: {path} is something else")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            caller.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise PortInUse(
        f"the admin socket {path} belongs to another program",
        do="stop that program, or choose another path as api.admin_socket",
    )
