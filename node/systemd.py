"""What systemd tells this process, and what it is told.

The only variables of the environment that are not configuration: systemd sets them, not a person.
Nothing here does anything when the node was started by hand.

Source: sd_notify(3), sd_watchdog_enabled(3), and "Credentials" in systemd.exec(5).
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path


def notify(*lines: str) -> None:
    """Tell systemd (``Type=notify``); a no-op elsewhere.

    A full or closed socket loses the message: the node must not wait for who watches it.
    """
    if not (address := os.environ.get("NOTIFY_SOCKET")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.sendto("\n".join(lines).encode(), address.replace("@", "\0", 1))
        except OSError:
            return


def reloading() -> str:
    """The lines that begin a reload; ``READY=1`` ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def extend(seconds: float) -> str:
    """The line that asks for ``seconds`` more to start or to stop, counted from now."""
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}"


def watchdog_seconds() -> float | None:
    """After how long without ``WATCHDOG=1`` systemd ends this process; None if it does not."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(text) / 1_000_000


def credential(name: str) -> Path | None:
    """The file with a secret that systemd decrypted for this service alone; None without one."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder, name) if folder else None
    return path if path is not None and path.is_file() else None
