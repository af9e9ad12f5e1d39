"""How other parts of the node have texts embedded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import trio
from numpy.typing import NDArray

from r3mes.actors.inference.embedding.actor import Board, EmbeddingActor, Enqueue, Ready, Withdraw
from r3mes.actors.inference.embedding.line import Ticket
from r3mes.actors.inference.protocol import pack_ids
from r3mes.errors import (
    ActorStopped,
    AskTimeout,
    BadRequest,
    ContextLengthExceeded,
    EngineError,
    MailboxFull,
    NotReady,
    Overloaded,
)

Vectors: TypeAlias = NDArray[np.float32]
MOST_TOKENS = 300_000
"""Of one request."""
AT_ONCE = 4096
"""Bytes of text that are made into tokens here; more of it in a thread."""
THREADS = 2


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors ``(texts, width)`` in the order of the texts, and how many tokens these had."""

    vectors: Vectors
    tokens: int


class EmbeddingClient:
    """The model for embeddings."""

    def __init__(self, actor: EmbeddingActor) -> None:
        self.name, self.board = actor.settings.name, actor.board
        self._mailbox = actor.mailbox
        self._threads = trio.CapacityLimiter(THREADS)

    async def settled(self) -> Board:
        """Wait until the model is ready or has failed; how it stands then."""
        while self.board.state == "loading":
            await self.board.changed.wait()
        return self.board

    def hash(self) -> bytes | None:
        """Of the model's files; None while it cannot embed."""
        ready = self.board.ready
        return ready.hash if ready is not None and self.board.state == "ready" else None

    async def wait_change(self) -> None:
        """Wait until the model is ready, restarts or fails."""
        await self.board.changed.wait()

    async def vectors(self, texts: Sequence[str], *, deadline_s: float) -> Vectors:
        """Of length 1, for the router; of long texts their beginnings'.

        Raises:
            R3mesError: as `embed`.
        """
        found = (await self.embed(texts, deadline_s=deadline_s, cut=True)).vectors
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        vectors: Vectors = found / np.maximum(lengths, np.finfo(np.float32).tiny)
        return vectors

    async def embed(
        self, texts: Sequence[str | Sequence[int]], *, deadline_s: float, cut: bool = False
    ) -> Embeddings:
        """The vectors of texts, or of token ids of this model's own tokenizer.

        Args:
            texts: one or more, none of them empty.
            deadline_s: seconds within which they must be there.
            cut: use the beginning of a text that is too long instead of refusing it.

        Raises:
            NotReady, EngineError: the model is not loaded, or died under it.
            BadRequest: a text is empty or not text, or an id is not one of this model.
            ContextLengthExceeded: a text, or all together, are too long.
            Overloaded: they could not be embedded in time.
        """
        deadline = trio.current_time() + deadline_s
        ready = self._ready()
        rows = await self._rows(ready, texts, cut=cut)
        tokens = sum(map(len, rows))
        if tokens > MOST_TOKENS:
            raise ContextLengthExceeded(
                f"the texts have {tokens} tokens, and a request {MOST_TOKENS} at most",
                param="input",
            )
        ticket = Ticket([pack_ids(row) for row in rows], deadline)
        await self._wait(ticket)
        joined = b"".join(ticket.vectors[row] for row in range(len(rows)))
        vectors = np.frombuffer(joined, "<f4").reshape(len(rows), -1)
        if not np.isfinite(vectors).all():
            raise EngineError("the model made a vector that has no numbers")
        return Embeddings(vectors, tokens)

    def _ready(self) -> Ready:
        board = self.board
        if board.ready is not None:
            return board.ready
        if board.error is not None:
            raise board.error.again()
        raise NotReady(f"the model {self.name} is still being loaded", retry_after_s=5)

    async def _rows(
        self, ready: Ready, texts: Sequence[str | Sequence[int]], *, cut: bool
    ) -> list[Sequence[int]]:
        make = partial(_rows, ready, texts, cut=cut)
        if sum(len(text) for text in texts) <= AT_ONCE:
            return make()
        return await trio.to_thread.run_sync(make, limiter=self._threads, abandon_on_cancel=True)

    async def _wait(self, ticket: Ticket) -> None:
        try:
            patience = max(0.0, ticket.deadline - trio.current_time())
            await self._mailbox.ask(Enqueue(ticket), timeout=patience)
            with trio.move_on_at(ticket.deadline):
                await ticket.ended.wait()
        except AskTimeout as error:
            raise Overloaded(error.detail, retry_after_s=1) from None
        finally:
            if not ticket.ended.is_set():
                with suppress(MailboxFull, NotReady, ActorStopped):  # its batch finds no reader
                    self._mailbox.tell_nowait(Withdraw(ticket))
        if ticket.error is not None:
            raise ticket.error
        if not ticket.ended.is_set():
            raise Overloaded("the texts were not embedded in time", retry_after_s=1)


def _rows(ready: Ready, texts: Sequence[str | Sequence[int]], *, cut: bool) -> list[Sequence[int]]:
    return [_row(ready, text, at, cut=cut) for at, text in enumerate(texts)]


def _row(ready: Ready, text: str | Sequence[int], at: int, *, cut: bool) -> Sequence[int]:
    if not text:
        raise BadRequest(f"text {at} is empty", param="input")
    if isinstance(text, str):
        ids = _encoded(ready, text[: ready.most_bytes] if cut else text, at)
    else:
        ids = _known(ready, text, at)
    if len(ids) <= ready.context:
        return ids
    if cut:
        return [*ids[: ready.context - 1], ids[-1]]  # what ends a text ends its beginning too
    raise ContextLengthExceeded(
        f"text {at} has {len(ids)} tokens, and the model takes {ready.context}", param="input"
    )


def _known(ready: Ready, ids: Sequence[int], at: int) -> Sequence[int]:
    if all(0 <= token < ready.vocabulary for token in ids):
        return ids
    raise BadRequest(
        f"text {at} has a token id that the model does not have",
        do="send texts, or ids of this model's own tokenizer",
        param="input",
    )


def _encoded(ready: Ready, text: str, at: int) -> Sequence[int]:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadRequest(f"text {at} has half of a surrogate pair", param="input") from None
    if size > 4 * ready.most_bytes:  # a cut text has so many characters, of four bytes at most
        raise ContextLengthExceeded(
            f"text {at} has {size} bytes, more than the model's {ready.context} tokens hold",
            param="input",
        )
    ids: list[int] = ready.tokenizer.encode(text).ids
    if not ids:
        raise BadRequest(f"text {at} has no tokens that the model knows", param="input")
    return ids
