"""What a running node says of itself in its data directory, for commands on the same machine.

Port 0 takes a free port, so the configuration alone does not tell where the API is.  The file holds
no secret.  It goes away with an orderly stop; after a kill or a power cut it is stale, and its pid
may be that of another program by then.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

FILE = "running.json"


class Running(msgspec.Struct, frozen=True):
    """A node that is up: its process, identity and bound addresses.

    Args:
        api: ``host:port`` of the HTTP API.
        p2p: full multiaddresses, with the peer id.
        admin: path of the admin socket.
        metrics: ``host:port`` of the listener for Prometheus; empty if there is none.
        began: when the process did, in ticks since the machine started; noted by `write_running`.
    """

    pid: int
    peer_id: str
    wallet: str
    api: str
    p2p: tuple[str, ...]
    admin: str = ""
    metrics: str = ""
    began: int | None = None


def write_running(datadir: Path, running: Running) -> None:
    """Publish ``running``; readers see the old file or the new one, never half of it."""
    draft = datadir / f"{FILE}.new"
    noted = msgspec.structs.replace(running, began=_began(running.pid))
    draft.write_bytes(msgspec.json.encode(noted) + b"\n")
    draft.replace(datadir / FILE)


def read_running(datadir: Path) -> Running | None:
    """The node that runs on ``datadir``; None if none does, or none wrote so."""
    try:
        running = msgspec.json.decode((datadir / FILE).read_bytes(), type=Running)
    except (FileNotFoundError, PermissionError, msgspec.MsgspecError):
        return None
    try:
        os.kill(running.pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # another user's process: it lives
    if running.began is not None and _began(running.pid) not in (running.began, None):
        return None
    return running


def remove_running(datadir: Path) -> None:
    """Say that the node is down."""
    (datadir / FILE).unlink(missing_ok=True)


def _began(pid: int) -> int | None:
    """When the process began, in ticks; None if this user may not see it.  Source: proc(5)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])
