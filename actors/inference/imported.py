"""A directory as a source of models: read once for its hashes, then copied under their eyes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from r3mes.actors.inference.files import WEIGHTS, check_model, digest, hash_model
from r3mes.actors.inference.source import WANTED, Listing, RemoteFile, Stream
from r3mes.errors import ModelInvalid, ModelMissing

CHUNK_BYTES = 1 << 20


class DirectorySource:
    """The model in ``directory``; links in it are followed, of weights to wherever they lead."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def listing(self, model: str, revision: str) -> Listing:
        """Raises `ModelMissing` or `ModelInvalid` if there is no model that can be served."""
        look = partial(_listing, self._directory, model, revision)
        try:
            return await trio.to_thread.run_sync(look, abandon_on_cancel=True)
        except OSError as error:
            raise _unreadable(self._directory, error) from None

    @asynccontextmanager
    async def read(self, listing: Listing, file: RemoteFile, offset: int) -> AsyncIterator[Stream]:
        chunks = self._chunks(self._directory / file.name, offset)
        async with aclosing(chunks):
            yield Stream(offset, chunks, listing.host)

    async def _chunks(self, path: Path, offset: int) -> AsyncGenerator[bytes, None]:
        try:
            async with await trio.open_file(path, "rb") as opened:
                await opened.seek(offset)
                while chunk := await opened.read(CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            raise _unreadable(self._directory, error) from None


def _listing(directory: Path, model: str, revision: str) -> Listing:
    check_model(directory)
    wanted = {
        name: path
        for path in sorted(directory.rglob("*"))
        if WANTED.fullmatch(name := str(path.relative_to(directory))) and path.is_file()
    }
    for path in wanted.values():
        _check_place(path, directory.resolve())
    files = tuple(
        RemoteFile(name, path.stat().st_size, digest(path)) for name, path in wanted.items()
    )
    commit = hash_model(directory).hex()
    return Listing(model, revision, commit, files, str(directory))


def _check_place(path: Path, directory: Path) -> None:
    """A model from strangers must not have this node's other files copied.

    Weights may lie on another disk: what is linked there has to be weights.
    """
    if path.match(WEIGHTS):
        return
    target = path.resolve()
    blobs = directory.parent.parent / "blobs"  # of snapshots/COMMIT in a hub's cache
    if not (target.is_relative_to(directory) or target.is_relative_to(blobs)):
        raise ModelInvalid(
            f"{path} is a link to {target}, outside of the model",
            do="copy the file into the directory",
        )


def _unreadable(directory: Path, error: OSError) -> ModelMissing:
    return ModelMissing(
        f"{error.filename or directory} cannot be read: {error.strerror}",
        do="let the user of the node read it",
    )
