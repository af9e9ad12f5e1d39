"""When the last backup was made: noted in the data directory, for status, metrics and doctor."""

from __future__ import annotations

from pathlib import Path

from r3mes.actors.store import BACKUPS

NOTE = "last-success"


def last_backup(datadir: Path) -> float | None:
    """The unix time at which the last backup of ``datadir`` was complete; None without one."""
    try:
        return (datadir / BACKUPS / NOTE).stat().st_mtime
    except OSError:
        return None


def record_success(datadir: Path, file: Path) -> None:
    """Note that ``file`` is a whole backup, now."""
    folder = datadir / BACKUPS
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / NOTE).write_text(f"{file}\n")
