"""A directory as a source of models: read once for its hashes, then copied under their eyes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from r3mes.actors.inference.files import check_model, digest, hash_model
from r3mes.actors.inference.source import WANTED, Listing, RemoteFile, Stream
from r3mes.errors import ModelMissing

CHUNK_BYTES = 1 << 20


class DirectorySource:
    """The model in ``directory``; links in it are followed."""

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
    files = tuple(
        RemoteFile(name, path.stat().st_size, digest(path))
        for path in sorted(directory.rglob("*"))
        if WANTED.fullmatch(name := str(path.relative_to(directory))) and path.is_file()
    )
    commit = hash_model(directory).hex()
    return Listing(model, revision, commit, files, str(directory))


def _unreadable(directory: Path, error: OSError) -> ModelMissing:
    return ModelMissing(
        f"{error.filename or directory} cannot be read: {error.strerror}",
        do="let the user of the node read it",
    )
