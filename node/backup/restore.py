"""Putting a backup in the place of a node that does not run.

Files that are there already are renamed, never deleted; files that the backup does not have stay.
The node key goes first and comes last: without it no node starts, so one that was cut off in the
middle of this is not mistaken for a whole one, and the restore can be run again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from r3mes.actors.store import DATABASE
from r3mes.actors.store.datadir import locked
from r3mes.config.secrets import sync_folder
from r3mes.errors import StoreError
from r3mes.node.audit import audit
from r3mes.node.backup import disk
from r3mes.node.backup.manifest import CONFIG, NODE_KEY, Manifest
from r3mes.node.backup.verify import unpack

SIDECARS = (f"{DATABASE}-wal", f"{DATABASE}-shm")
"""Of the old database: they must not meet the new one."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done, or would be.

    Args:
        put: files that are in place now.
        aside: the new names of files that were there before.
    """

    manifest: Manifest
    put: tuple[Path, ...]
    aside: tuple[Path, ...]


def restore_backup(
    file: Path,
    datadir: Path,
    config_file: Path,
    *,
    passphrase: str | None = None,
    dry_run: bool = False,
) -> Restored:
    """Check the backup ``file``, then put what is in it into place.  Blocks.

    Raises:
        BackupInvalid, StoreNewer: the backup cannot be used; nothing was changed.
        PassphraseMissing, PassphraseWrong: it is sealed; nothing was changed.
        DataDirLocked: a node runs on ``datadir``; nothing was changed.
        StoreError: a file could not be put into place; running it again goes on.
    """
    with locked(datadir), disk.workplace(datadir, ".restore-") as scratch:
        manifest = unpack(file, scratch, passphrase)
        places = _places(manifest, datadir, config_file)
        old = [path for path in _replaced(places, datadir) if path.exists()]
        aside = _aside(old)
        _check_writable(places)
        if not dry_run:
            try:
                _exchange(scratch, places, list(zip(old, aside, strict=True)))
            except OSError as error:
                raise StoreError(f"{error.filename}: {error.strerror}") from error
            audit("backup_restored", file=str(file), peer=manifest.peer_id)
    return Restored(manifest, tuple(places.values()), tuple(aside))


def _places(manifest: Manifest, datadir: Path, config_file: Path) -> dict[str, Path]:
    """Where each file goes, the node key last."""
    names = [*sorted(manifest.names() - {NODE_KEY}), NODE_KEY]
    return {name: config_file if name == CONFIG else datadir / name for name in names}


def _replaced(places: dict[str, Path], datadir: Path) -> Iterator[Path]:
    """What may have to make room, the node key first."""
    yield from reversed(places.values())
    yield from (datadir / name for name in SIDECARS)


def _aside(old: Sequence[Path]) -> list[Path]:
    """New names for ``old`` that nothing has, also when this is tried again within a second."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    endings = (f".replaced-{stamp}{f'-{n}' if n else ''}" for n in count())
    names = ([path.with_name(path.name + ending) for path in old] for ending in endings)
    return next(found for found in names if not any(path.exists() for path in found))


def _check_writable(places: dict[str, Path]) -> None:
    for place in places.values():
        folder = next(one for one in place.parents if one.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StoreError(
                f"{place} cannot be written", do="restore as the user who owns the node's files"
            )


def _exchange(scratch: Path, places: dict[str, Path], moves: Sequence[tuple[Path, Path]]) -> None:
    for old, new in moves:
        os.rename(old, new)
    for name, place in places.items():
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk.put(scratch / name, place)
    for folder in {place.parent for place in places.values()}:
        sync_folder(folder)
