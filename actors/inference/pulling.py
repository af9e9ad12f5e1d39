"""Pulling one model: file by file, resumed where it stopped, kept only if it is what was announced.

What is half there stays on the disk for the next try, whatever ended this one; a file whose hash
is wrong does not.  Only when every file is right does the version appear in the library.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import trio

from r3mes.actors.inference.files import PICKLES, WEIGHTS, check_model, digest, hash_model
from r3mes.actors.inference.library import Kept, KeptFile, Library, PullManifest
from r3mes.actors.inference.source import Listing, RemoteFile, Source, Stream
from r3mes.actors.inference.weights import read_headers
from r3mes.errors import HubUnreachable, ModelInvalid, ModelMissing, StoreFull

T = TypeVar("T")

BLOCK_BYTES = 1 << 20
"""Written at a time, by a thread."""
PLAIN_CAP = 256 << 20
"""Bytes of a file that git itself keeps; a hub has all that is large in LFS, with a SHA-256."""
SPARE_BYTES = 64 << 20
"""Of the disk that are left free."""
RATE_S = 2.0
ADAPTER = "adapter_config.json"
"""In a repository that holds no model but an adapter for one."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a source is asked again without a byte from it, and after which pauses."""

    tries: int = 7
    first_s: float = 1.0
    last_s: float = 60.0

    def pause_s(self, failures: int) -> float:
        return min(self.first_s * 2.0 ** (failures - 1), self.last_s)


@dataclass(slots=True)
class Progress:
    """How far a pull is; written by it, read by everybody.

    Args:
        note: what it waits for, for people; empty while bytes come.
        host: where the last bytes came from.
        moved_at: when, on trio's clock.
        bps: bytes a second, lately.
        was: the commit that the revision was before, if it was another.
    """

    commit: str | None = None
    done_bytes: int = 0
    total_bytes: int | None = None
    bps: float = 0.0
    note: str = ""
    host: str = ""
    was: str | None = None
    moved_at: float = field(default_factory=trio.current_time)
    _window: tuple[float, int] | None = None

    def moved(self, count: int, host: str) -> None:
        """So many bytes came."""
        self.done_bytes += count
        self.host, self.note, self.moved_at = host, "", trio.current_time()
        began, gathered = self._window or (self.moved_at, 0)
        gathered += count
        if (took := self.moved_at - began) > RATE_S:
            self.bps, began, gathered = gathered / took, self.moved_at, 0
        self._window = (began, gathered)

    @property
    def stalled_s(self) -> float:
        """Seconds since the last byte."""
        return trio.current_time() - self.moved_at


class Pull:
    """One pull of ``model`` into ``library``; `run` it once.

    Args:
        source: where from.
        patience: with a source that does not answer.
    """

    def __init__(
        self,
        library: Library,
        source: Source,
        model: str,
        revision: str,
        patience: Patience = Patience(),
    ) -> None:
        self._library, self._source, self._patience = library, source, patience
        self._model, self._revision = model, revision
        self.progress = Progress()
        self._before = 0  # bytes of the files that are done

    async def run(self) -> Kept:
        """Pull it; what is there already is not asked for again.

        Raises:
            ModelMissing, HubUnreachable: the source does not have it, or cannot be reached.
            ModelInvalid: it is no model for us, or not what was announced.
            StoreFull: the disk is full; the next try goes on from here.
            NotReady: another process pulls the same model.
        """
        listing = await self._again_and_again(
            partial(self._source.listing, self._model, self._revision)
        )
        _check_listing(listing)
        progress = self.progress
        progress.commit = listing.commit
        progress.total_bytes = sum(file.size for file in listing.files)
        try:
            if kept := self._library.find(self._model, listing.commit):
                self._pin(listing)
                progress.done_bytes = progress.total_bytes
                return kept
            with self._library.draft(self._model, listing.commit) as draft:
                return await self._gather(listing, draft)
        except OSError as error:
            raise _disk(self._library.root, error) from None

    async def _gather(self, listing: Listing, draft: Path) -> Kept:
        _clear_strangers(draft, listing)
        _check_room(draft, listing)
        kept: dict[str, KeptFile] = {}
        for file in sorted(listing.files, key=lambda one: one.size):
            kept[file.name] = KeptFile(await self._file(listing, file, draft), file.size)
        return await trio.to_thread.run_sync(self._publish, listing, draft, kept)

    def _publish(self, listing: Listing, draft: Path, files: dict[str, KeptFile]) -> Kept:
        try:
            if not (draft / ADAPTER).is_file():
                check_model(draft)
            read_headers(draft)
        except (ModelInvalid, ModelMissing):  # all of it is here, and will never be a model
            shutil.rmtree(draft)
            raise
        manifest = PullManifest(
            model=self._model,
            revision=listing.revision,
            commit=listing.commit,
            source=listing.host,
            hash=hash_model(draft).hex(),
            pulled_ms=time.time_ns() // 1_000_000,
            files=files,
        )
        before = self._library.find(self._model, listing.revision)
        kept = self._library.publish(draft, manifest)
        self.progress.was = before.manifest.commit if before else None
        return kept

    def _pin(self, listing: Listing) -> None:
        was = self._library.pin(self._model, listing.revision, listing.commit)
        self.progress.was = was if was != listing.commit else None

    async def _file(self, listing: Listing, file: RemoteFile, draft: Path) -> str:
        """Have the file in ``draft``, whole and right; its SHA-256."""
        part = _Part(draft / file.name, file)
        if not part.is_done():
            await self._again_and_again(partial(self._rest, listing, part))
            host = self.progress.host or listing.host
            await trio.to_thread.run_sync(part.accept, host, abandon_on_cancel=True)
        self._before += file.size
        self.progress.done_bytes = self._before
        if file.sha256 is not None:
            return file.sha256
        return await trio.to_thread.run_sync(digest, part.path, abandon_on_cancel=True)

    async def _rest(self, listing: Listing, part: _Part) -> None:
        """Bring ``part`` to its full size."""
        have, progress = part.size(), self.progress
        progress.done_bytes = self._before + have
        if part.is_whole():
            return
        async with self._source.read(listing, part.file, have) as stream:
            progress.done_bytes = self._before + stream.offset
            with part.open_at(stream.offset) as out:
                await _write(stream, out, part.file.size - stream.offset, progress)
        part.check_whole(stream.host)

    async def _again_and_again(self, act: Callable[[], Awaitable[T]]) -> T:
        """``act`` until it succeeds, gives up, or fails otherwise than by a source out of reach."""
        failures, moved_at = 0, self.progress.moved_at
        while True:
            try:
                return await act()
            except HubUnreachable as error:
                failures = 1 if self.progress.moved_at != moved_at else failures + 1
                moved_at = self.progress.moved_at
                if failures >= self._patience.tries:
                    raise
                pause = self._patience.pause_s(failures)
                self.progress.note = f"{error.detail}; asked again in {pause:.0f} s"
            await trio.sleep(pause)


class _Part:
    """A file while it is pulled: ``NAME.part`` beside the place where it will be."""

    def __init__(self, path: Path, file: RemoteFile) -> None:
        self.path, self.file = path, file
        self._part = path.with_name(f"{path.name}.part")

    def is_done(self) -> bool:
        """Whether an earlier try has got it, and found it right."""
        return self.path.exists()

    def size(self) -> int:
        """What there is of it; nothing, if that is too much."""
        size = self._part.stat().st_size if self._part.exists() else 0
        return size if size <= self.file.size else 0

    def is_whole(self) -> bool:
        return self._part.exists() and self._part.stat().st_size == self.file.size

    def open_at(self, offset: int) -> BinaryIO:
        """For writing from ``offset`` on; what is behind it is gone."""
        self.path.parent.mkdir(exist_ok=True)
        out = self._part.open("r+b" if self._part.exists() else "wb")
        out.truncate(offset)
        out.seek(offset)
        return out

    def check_whole(self, host: str) -> None:
        if not self.is_whole():
            raise HubUnreachable(f"{host} ended {self.file.name} after {self.size()} bytes")

    def accept(self, host: str) -> None:
        """Put it in its place if it is what was announced, else delete it; blocks.

        Raises:
            ModelInvalid: it is not.
        """
        with self._part.open("rb") as opened:
            os.fsync(opened.fileno())
        if self.file.sha256 is not None:
            right = digest(self._part) == self.file.sha256
        else:
            right = _blob(self._part) == self.file.blob
        if not right:
            self._part.unlink()
            raise ModelInvalid(
                f"{self.file.name} from {host} is not what was announced: its hash is another",
                do="pull again; if it stays so, the source is damaged or not to be trusted",
            )
        self._part.rename(self.path)


async def _write(stream: Stream, out: BinaryIO, most: int, progress: Progress) -> None:
    """Write what comes in blocks, and count it as it comes."""
    block = bytearray()
    try:
        async for chunk in stream.chunks:
            if (most := most - len(chunk)) < 0:
                raise ModelInvalid(f"{stream.host} sends more than it announced")
            block += chunk
            progress.moved(len(chunk), stream.host)
            if len(block) >= BLOCK_BYTES:
                await trio.to_thread.run_sync(out.write, bytes(block))
                block.clear()
    finally:
        out.write(block)


def _blob(path: Path) -> str:
    """Git's name of a file's content."""
    named = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as opened:
        while block := opened.read(BLOCK_BYTES):
            named.update(block)
    return named.hexdigest()


def _check_listing(listing: Listing) -> None:
    """Refuse before the first byte what could not be served."""
    for file in listing.files:
        if file.sha256 is None and file.size > PLAIN_CAP:
            raise ModelInvalid(
                f"{file.name} of {listing.model} has {file.size >> 20} MiB, and a file that is "
                f"announced without a SHA-256 may have {PLAIN_CAP >> 20}"
            )
    names = [file.name for file in listing.files]
    if not {"config.json", ADAPTER}.intersection(names):
        raise ModelInvalid(f"{listing.model} has no config.json: it is no model for transformers")
    if not any(name.endswith(WEIGHTS[1:]) for name in names):
        raise ModelInvalid(
            f"{listing.model} has no safetensors weights, and what is pickled "
            f"({', '.join(PICKLES[:3])}, …) can run code",
            do="pull a version of it with safetensors",
        )


def _clear_strangers(draft: Path, listing: Listing) -> None:
    """Nothing gets into the library that was not listed."""
    names = {file.name for file in listing.files}
    for path in draft.rglob("*"):
        name = str(path.relative_to(draft))
        if not path.is_dir() and name.removesuffix(".part") not in names:
            path.unlink()


def _check_room(draft: Path, listing: Listing) -> None:
    there = sum(path.stat().st_size for path in draft.rglob("*") if path.is_file())
    needed = sum(file.size for file in listing.files) - there
    free = shutil.disk_usage(draft).free
    if needed + SPARE_BYTES > free:
        raise StoreFull(
            f"{listing.model} needs {needed >> 20} MiB more, and {free >> 20} are free in {draft}",
            do="free some space or remove a model (`r3mes models rm`), then pull again: it goes on",
        )


def _disk(root: Path, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        do = "free some space, then pull again: it goes on from here"
        return StoreFull(f"no space is left in {root}", do=do)
    return StoreFull(f"{root} cannot be written: {error.strerror}", do="let the node write there")
