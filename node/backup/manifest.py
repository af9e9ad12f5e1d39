"""What a backup says of itself: the first file in it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from r3mes.actors.store import DATABASE
from r3mes.errors import BackupInvalid

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
NODE_KEY, CONFIG = "keys/node.key", "config.toml"
NAME = rf"^({re.escape(DATABASE)}|{NODE_KEY}|{re.escape(CONFIG)}|wallets/[A-Za-z0-9_-]{{1,64}}\.(json|passphrase|backed-up))\Z"  # noqa: E501
"""Nothing else is in a backup, so nothing else can be put anywhere by one."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file, under the name that it has in a data directory."""

    name: Annotated[str, Meta(pattern=NAME)]
    size: Annotated[int, Meta(ge=0)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole backup.

    Args:
        made_at: unix time.
        program: version that made it.
        schema: of the database.
        peer_id: of the node key.
        models: ids of the models that the node served; their files are not in the backup.
        format: of the backup itself.
    """

    made_at: float
    program: str
    schema: int
    peer_id: str
    models: tuple[str, ...]
    files: Annotated[tuple[Entry, ...], Meta(max_length=10_000)]
    format: Annotated[int, Meta(ge=1)] = 1

    def names(self) -> set[str]:
        """Of all files."""
        return {entry.name for entry in self.files}


class _Format(msgspec.Struct, frozen=True):
    format: int


def read_manifest(data: bytes) -> Manifest:
    """The manifest in ``data``, if it describes a complete backup.

    Raises:
        BackupInvalid: it does not.
    """
    try:
        if (number := msgspec.json.decode(data, type=_Format).format) > 1:
            raise BackupInvalid(
                f"the backup has format {number}, this program knows format 1",
                do="use the version of r3mes that made it, or a newer one",
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BackupInvalid(f"its manifest cannot be read: {error}") from None
    names = manifest.names()
    if len(names) != len(manifest.files):
        raise BackupInvalid("its manifest names a file twice")
    if missing := {DATABASE, NODE_KEY} - names:
        raise BackupInvalid(f"it is not complete: {min(missing)} is missing")
    if not any(name.endswith(".json") for name in names):
        raise BackupInvalid("it is not complete: it has no wallet")
    return manifest


def entries_of(files: Mapping[str, Path]) -> tuple[Entry, ...]:
    """What the manifest says of ``files``, by their names."""
    return tuple(_entry(name, path) for name, path in files.items())


def _entry(name: str, path: Path) -> Entry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Entry(name, path.stat().st_size, digest)
