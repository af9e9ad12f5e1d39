"""Reading a backup: nothing in it is believed before it was checked.

The checksums tell damage, not forgery: whoever can write a backup's manifest has the node key that
is in it.  Names come from a short list, so a hostile file reaches no place of its own choice.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from pathlib import Path
from typing import IO

from r3mes.actors.store import DATABASE
from r3mes.actors.store.examine import examine
from r3mes.actors.store.faults import condition
from r3mes.chain.keys.keystore import read_address
from r3mes.errors import (
    BackupInvalid,
    ConfigError,
    PassphraseMissing,
    StoreCorrupt,
    StoreError,
    WalletError,
)
from r3mes.node.backup.disk import new_file
from r3mes.node.backup.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    NODE_KEY,
    Entry,
    Manifest,
    read_manifest,
)
from r3mes.node.backup.sealing import is_sealed, unseal
from r3mes.p2p.identity import NodeKey

CHUNK = 1 << 20


def unpack(file: Path, folder: Path, passphrase: str | None = None) -> Manifest:
    """Unpack the backup ``file`` into the empty ``folder``, and check all of it.  Blocks.

    Raises:
        PassphraseMissing, PassphraseWrong: it is sealed.
        BackupInvalid: it is cut off, changed, not complete, or no backup at all.
        StoreNewer: a newer version made it.
        StoreError: ``folder`` cannot take it, for want of space for example.
    """
    try:
        opened = _opened(file, folder, passphrase)
        with gzip.open(opened) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            manifest = _members(archive, folder)
            while stream.read(CHUNK):  # to its end, which tells whether it was cut off
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BackupInvalid(f"{file} is damaged, cut off or no backup: {error}") from None
    except BackupInvalid as error:
        named = error.detail.startswith(str(file))
        raise BackupInvalid(error.detail if named else f"{file}: {error.detail}",
                            do=error.do) from None  # fmt: skip
    except OSError as error:
        if error.filename == str(file):
            raise BackupInvalid(f"{file}: {error.strerror}", do="name a file") from None
        raise condition(error, folder / DATABASE) or StoreError(str(error)) from error
    _check(file, folder, manifest)
    return manifest


def _opened(file: Path, folder: Path, passphrase: str | None) -> Path:
    """The archive itself, in ``folder`` if ``file`` is sealed."""
    if not is_sealed(file):
        return file
    if passphrase is None:
        raise PassphraseMissing(
            f"{file} is sealed with a passphrase", do="name a file that holds it"
        )
    unseal(file, folder / "archive", passphrase)
    return folder / "archive"


def _members(archive: tarfile.TarFile, folder: Path) -> Manifest:
    member = archive.next()
    content = archive.extractfile(member) if member and member.isreg() else None
    if member is None or content is None or member.name != MANIFEST:
        raise BackupInvalid("it does not begin with a manifest")
    manifest = read_manifest(content.read(MAX_MANIFEST_BYTES + 1)[:MAX_MANIFEST_BYTES])
    for entry in manifest.files:
        member = archive.next()
        content = archive.extractfile(member) if member and member.isreg() else None
        if member is None or content is None or member.name != entry.name:
            raise BackupInvalid(f"{entry.name} is missing")
        _save(content, entry, folder / entry.name)
    if archive.next() is not None:
        raise BackupInvalid("it holds more than its manifest names")
    return manifest


def _save(content: IO[bytes], entry: Entry, path: Path) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with new_file(path) as out:
        while size <= entry.size and (data := content.read(CHUNK)):
            digest.update(data)
            size += len(data)
            out.write(data)
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise BackupInvalid(f"{entry.name} is not what was backed up")


def _check(file: Path, folder: Path, manifest: Manifest) -> None:
    """Whether the parts are what they should be, beyond having the right bytes."""
    try:
        if examine(folder / DATABASE) != manifest.schema:
            raise BackupInvalid(f"{file}: its database is of another schema than it says")
        if NodeKey.load_or_create(folder / NODE_KEY).peer_id != manifest.peer_id:
            raise BackupInvalid(f"{file}: its node key is not the one it says")
        for name in manifest.names():
            if name.endswith(".json"):
                read_address(folder / name)
    except (StoreCorrupt, ConfigError, WalletError) as error:
        raise BackupInvalid(f"{file}: {error.detail.replace(f'{folder}/', '')}") from None
