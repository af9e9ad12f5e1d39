"""Where a model's files come from: the package, a directory, what was pulled, or a cache.

Models are pulled by `r3mes.actors.inference.pulling` from a `Source`: the Hugging Face hub, a
mirror of it, or a directory.  Another network needs only another class of that shape.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from r3mes.actors.inference.builtin import MODEL_DIR
from r3mes.actors.inference.files import check_model
from r3mes.actors.inference.library import Library
from r3mes.errors import EngineError, ModelMissing

BUILTIN = "builtin"
FETCHED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
"""Never anything that is code or pickled."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WANTED = re.compile(r"(?:\d+_[A-Za-z]+/)?[A-Za-z0-9][\w.-]*\.(?:safetensors|json|model|txt|jinja)")
"""The same, and the folders in which sentence-transformers keeps the parts of a model."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as its source announces it.

    Args:
        name: relative to the model, of the form `WANTED`.
        sha256: in hex; None if the source tells only ``blob``.
        blob: git's SHA-1 of the file, in hex.
    """

    name: str
    size: int
    sha256: str | None
    blob: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """One version of a model.

    Args:
        commit: names this version for ever, in hex.
        host: who says so, for people.
    """

    model: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    host: str


@dataclass(frozen=True, slots=True)
class Stream:
    """The bytes of a file from ``offset`` on, which may be before the one that was asked for."""

    offset: int
    chunks: AsyncIterator[bytes]
    host: str


class Source(Protocol):
    """Somewhere models can be pulled from."""

    async def listing(self, model: str, revision: str) -> Listing:
        """What ``revision`` is now.

        Raises:
            ModelMissing: it has no such model, or not for us.
            HubUnreachable: it cannot be asked; worth another try.
        """

    def read(
        self, listing: Listing, file: RemoteFile, offset: int
    ) -> AbstractAsyncContextManager[Stream]:
        """The file from ``offset`` on; may end early.

        Raises:
            ModelMissing: it does not have the file any more.
            HubUnreachable: it cannot be asked, or fell silent; worth another try.
        """


def find_model(source: str, revision: str, library: Library | None = None) -> Path:
    """The directory with the model's files; asks no network.

    Raises:
        ModelMissing: it is not on this machine.
    """
    if source == BUILTIN:
        return MODEL_DIR
    if library is not None and (kept := library.find(source, revision)):
        return kept.directory
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve()
    if not is_hub_id(source):
        raise ModelMissing(f"there is no directory {path}, and no model of that name was imported")
    if cached := _in_cache(source, revision):
        return cached
    raise ModelMissing(
        f"{source} at {revision} is not on this machine", do=f"run `r3mes models pull {source}`"
    )


def is_hub_id(source: str) -> bool:
    """Whether a source is the name of a repository, and no path."""
    return HUB_ID.fullmatch(source) is not None and ".." not in source


def is_here(source: str, revision: str, library: Library | None = None) -> bool:
    """Whether `find_model` finds it; also True for what could not be pulled either."""
    try:
        find_model(source, revision, library)
    except ModelMissing:
        return not is_hub_id(source)
    return True


def _in_cache(hub_id: str, revision: str) -> Path | None:
    """Where the hub's own library has it, whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=FETCHED, local_files_only=True
            )
        )
        if (found / "config.json").is_file():
            check_model(found)
    except (LocalEntryNotFoundError, EngineError):
        return None
    return found
