"""Making a backup, also of a node that runs."""

from __future__ import annotations

import io
import shutil
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec

from r3mes import __version__
from r3mes.actors.store import BACKUPS, DATABASE
from r3mes.actors.store.examine import copy_database, examine
from r3mes.actors.store.faults import condition
from r3mes.config.schema import Config
from r3mes.errors import AlreadyThere, ConfigError, StoreError
from r3mes.node.audit import audit
from r3mes.node.backup.disk import new_file, put_new, workplace
from r3mes.node.backup.manifest import CONFIG, MANIFEST, NODE_KEY, Manifest, entries_of
from r3mes.node.backup.record import record_success
from r3mes.node.backup.sealing import seal
from r3mes.p2p.identity import NodeKey


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that is on the disk."""

    file: Path
    size: int
    manifest: Manifest


def create_backup(
    config: Config,
    config_file: Path,
    target: Path | None = None,
    *,
    passphrases: bool = False,
    sealed_with: str | None = None,
) -> Made:
    """Write everything that a node cannot make anew into one new file of mode 0600.

    The database is copied as it is at one moment; a node may go on writing.  Blocks.

    Args:
        config: of the node.
        config_file: goes into the backup if it is there.
        target: the file to write, a compressed tar archive; one in the data directory's
            ``backups``, named by the time, if None.
        passphrases: include the files that open wallets; whoever has the backup has the money then.
        sealed_with: a passphrase, without which nobody can read the file.

    Raises:
        AlreadyThere: ``target`` was left as it is.
        ConfigError: there is no node to back up, or others can read its key.
        StoreError: the database is damaged, or the disk is full; there is no new file.
    """
    datadir, now = config.node.datadir, time.time()
    ending = "tar.gz" if sealed_with is None else "sealed"
    target = (target or _default(datadir, now, ending)).absolute()
    if target.exists():
        raise AlreadyThere(f"{target} is there already")
    if not (datadir / NODE_KEY).exists() or not (datadir / DATABASE).exists():
        raise ConfigError(f"{datadir} holds no node yet", do="run `r3mes init`")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with workplace(datadir, ".backup-") as scratch:
            files = _gather(datadir, config_file, scratch, passphrases=passphrases)
            manifest = _describe(config, files, now)
            _pack(scratch / "open", manifest, scratch)
            draft = scratch / "open"
            if sealed_with is not None:
                draft = scratch / "sealed"
                seal(scratch / "open", draft, sealed_with)
            put_new(draft, target)
        record_success(datadir, target)
        audit(
            "backup_made", file=str(target), sealed=sealed_with is not None, passphrases=passphrases
        )
    except StoreError as error:
        raise type(error)(error.detail.replace(str(scratch), str(datadir)), do=error.do) from None
    except OSError as error:
        raise condition(error, target) or StoreError(str(error)) from error
    return Made(target, target.stat().st_size, manifest)


def _default(datadir: Path, now: float, ending: str) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    names = (f"r3mes-{stamp}{f'-{n}' if n else ''}.{ending}" for n in count())
    return next(path for name in names if not (path := datadir / BACKUPS / name).exists())


def _gather(
    datadir: Path, config_file: Path, scratch: Path, *, passphrases: bool
) -> dict[str, Path]:
    """Copies of all files by name: what is hashed must be what is written."""
    files = {DATABASE: scratch / DATABASE}
    copy_database(datadir / DATABASE, files[DATABASE])
    for name, path in _others(datadir, config_file, passphrases):
        files[name] = scratch / name
        files[name].parent.mkdir(exist_ok=True)
        shutil.copyfile(path, files[name])
        files[name].chmod(0o600)
    return files


def _describe(config: Config, files: dict[str, Path], now: float) -> Manifest:
    return Manifest(
        made_at=now,
        program=__version__,
        schema=examine(files[DATABASE]),
        peer_id=NodeKey.load_or_create(files[NODE_KEY]).peer_id,
        models=tuple(model.id for model in config.models),
        files=entries_of(files),
    )


def _others(datadir: Path, config_file: Path, passphrases: bool) -> Iterator[tuple[str, Path]]:
    yield NODE_KEY, datadir / NODE_KEY
    if config_file.exists():
        yield CONFIG, config_file
    for ending in ("json", "backed-up", *(["passphrase"] if passphrases else [])):
        for path in sorted((datadir / "wallets").glob(f"*.{ending}")):
            yield f"wallets/{path.name}", path


def _pack(draft: Path, manifest: Manifest, folder: Path) -> None:
    with new_file(draft) as out, tarfile.open(fileobj=out, mode="w:gz") as archive:
        text = msgspec.json.format(msgspec.json.encode(manifest))
        archive.addfile(_member(MANIFEST, len(text), manifest), io.BytesIO(text))
        for entry in manifest.files:
            with (folder / entry.name).open("rb") as content:
                archive.addfile(_member(entry.name, entry.size, manifest), content)


def _member(name: str, size: int, manifest: Manifest) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(manifest.made_at)
    return member
