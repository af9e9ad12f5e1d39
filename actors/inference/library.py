"""The models that this node keeps, each version whole or not there at all.

    models/org--name/pins.json         {"main": "<commit>"}: what a revision was when it was pulled
    models/org--name/<commit>/         the files, and their manifest
    models/org--name/<commit>.partial/ the same while it is being pulled

A revision stays what it was: only another pull moves it, whatever its source says meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from r3mes.errors import ModelMissing, NotReady

MANIFEST, PINS, PARTIAL = "r3mes-manifest.json", "pins.json", ".partial"
COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class KeptFile(msgspec.Struct, frozen=True):
    """A file as it was when it was pulled."""

    sha256: str
    size: int


class PullManifest(msgspec.Struct, frozen=True):
    """What was pulled: beside the files, for comparing them whenever they are loaded.

    Args:
        model: hub id, or the name under which it was imported.
        source: who gave it.
        hash: as the network knows the model, in hex.
        pulled_ms: when, in unix milliseconds.
    """

    model: str
    revision: str
    commit: str
    source: str
    hash: str
    pulled_ms: int
    files: dict[str, KeptFile]


@dataclass(frozen=True, slots=True)
class Kept:
    """One version of a model in the library."""

    directory: Path
    manifest: PullManifest

    @property
    def size(self) -> int:
        return sum(file.size for file in self.manifest.files.values())


class Library:
    """The folder of models; its methods block.

    Args:
        root: made when something is put there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, model: str, revision: str) -> Kept | None:
        """What ``revision`` was when it was pulled last: a branch, tag or commit."""
        if NAME.fullmatch(model) is None:
            return None
        commit = self._pins(model).get(revision, revision)
        return read_kept(self._folder(model) / commit) if COMMIT.fullmatch(commit) else None

    def every(self) -> Iterator[Kept]:
        """Every version of every model, by name."""
        for directory in sorted(self.root.glob("*/*")):
            if COMMIT.fullmatch(directory.name) and (kept := read_kept(directory)):
                yield kept

    def remove(self, model: str) -> int:
        """Delete every version of a model, also what is half there; the bytes that are free then.

        Raises:
            ModelMissing: there is none.
            NotReady: it is just being pulled.
        """
        folder = self._folder(model)
        if NAME.fullmatch(model) is None or not folder.is_dir():
            raise ModelMissing(f"no model {model!r} was pulled", do="see `r3mes models list`")
        with _claimed(folder, model):
            freed = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            shutil.rmtree(folder)
        return freed

    @contextmanager
    def draft(self, model: str, commit: str) -> Iterator[Path]:
        """The folder in which to gather a version; what an earlier try has left is in it.

        Raises:
            NotReady: another process gathers this model.
        """
        draft = self._folder(model) / f"{commit}{PARTIAL}"
        draft.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _claimed(draft.parent, model):
            yield draft

    def publish(self, draft: Path, manifest: PullManifest) -> Kept:
        """Make a gathered version one that is found, and its revision this version."""
        final = draft.with_name(manifest.commit)
        (draft / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        _sync(draft / MANIFEST)
        draft.rename(final)
        self.pin(manifest.model, manifest.revision, manifest.commit)
        return Kept(final, manifest)

    def pin(self, model: str, revision: str, commit: str) -> str | None:
        """Have ``revision`` be ``commit`` from now on; what it was before."""
        pins = self._pins(model)
        before = pins.get(revision)
        path = self._folder(model) / PINS
        draft = path.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(pins | {revision: commit}))
        _sync(draft)
        draft.replace(path)
        return before

    def _pins(self, model: str) -> dict[str, str]:
        try:
            return msgspec.json.decode(
                (self._folder(model) / PINS).read_bytes(), type=dict[str, str]
            )
        except (OSError, msgspec.MsgspecError):
            return {}

    def _folder(self, model: str) -> Path:
        return self.root / model.replace("/", "--")


def read_kept(directory: Path) -> Kept | None:
    """The version in ``directory``; None if it was not pulled."""
    try:
        manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=PullManifest)
    except (OSError, msgspec.MsgspecError):
        return None
    return Kept(directory, manifest)


@contextmanager
def _claimed(folder: Path, model: str) -> Iterator[None]:
    """Hold the folder against other processes; the kernel lets go if this one dies."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise NotReady(f"{model} is being pulled already", retry_after_s=60) from None
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
