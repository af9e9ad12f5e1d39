"""The model for embeddings: batches for its worker, and who waits for them.

A keeper keeps the worker alive as it does for models that write.  It counts as ready when it has
embedded one text, which also tells how wide the vectors are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TypeAlias, assert_never

import trio
from tokenizers import Tokenizer

from r3mes.actors.inference.choice import Choice
from r3mes.actors.inference.embedding.line import Batch, Line, Ticket
from r3mes.actors.inference.keeper import Fetch, Keeper
from r3mes.actors.inference.process import python
from r3mes.actors.inference.protocol import Embed, Embedded, Loaded, Pong, Report, pack_ids
from r3mes.actors.inference.settings import ModelSettings
from r3mes.actors.kernel.actor import Actor
from r3mes.actors.kernel.mailbox import Ask, Mailbox
from r3mes.errors import EngineCrashed, EngineError, ModelInvalid, Overloaded, R3mesError

COMMAND = python("r3mes.actors.inference.embedding.worker")
BATCH_TOKENS, GPU_BATCH_TOKENS = 512, 16_384
"""Of one batch.  A processor does no more a second in larger ones, and others wait for its end."""
WEIGHT = 0.2
"""Of the newest batch in the moving average of the speed."""
PROBE = "a"


@dataclass(frozen=True, slots=True)
class Enqueue(Ask[None]):
    """Give this request a place in the line."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Nobody waits for it any more."""

    ticket: Ticket


Message: TypeAlias = Enqueue | Withdraw


@dataclass(frozen=True, slots=True)
class Ready:
    """What the loaded model is.

    Args:
        width: numbers of a vector.
        context: most tokens of a text.
        vocabulary: token ids are below it.
        most_bytes: what no text of ``context`` tokens exceeds.
    """

    hash: bytes
    width: int
    context: int
    vocabulary: int
    most_bytes: int
    tokenizer: Tokenizer


@dataclass(slots=True)
class Board:
    """What the actor lets others see without asking; it alone writes here.

    Args:
        state: ``loading``, ``ready``, ``restarting`` (requests wait) or ``failed``.
        ready: set once a worker has embedded a text, kept while the next one starts.
        error: why there is no worker now.
        pid: of the worker.
        restarts: workers lost so far.
    """

    state: str = "loading"
    ready: Ready | None = None
    error: EngineError | None = None
    pid: int | None = None
    restarts: int = 0
    changed: trio.Event = field(default_factory=trio.Event)

    def turn(self, state: str, error: EngineError | None = None) -> None:
        """Enter a state and wake those who wait for one."""
        self.state, self.error = state, error
        self.changed.set()
        self.changed = trio.Event()


class EmbeddingActor(Actor[Message]):
    """Embeds, through `r3mes.actors.inference.embedding.client.EmbeddingClient`.

    Args:
        settings: which model, and within which limits; ``queue`` requests may wait.
        command: the worker's program and arguments.
        fetch: pulls a model that is not on this machine.
    """

    def __init__(
        self,
        settings: ModelSettings,
        command: Sequence[str] = COMMAND,
        fetch: Fetch | None = None,
    ) -> None:
        super().__init__(Mailbox(f"embedding {settings.name}", capacity=settings.queue + 16))
        self.settings, self._command, self._fetch = settings, command, fetch
        self.board = Board()

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self._line = Line()
        self._batch: Batch = []
        self._began_at, self._numbers = 0.0, count(1)
        self._tokens_per_s: float | None = None
        self._nascent: Ready | None = None
        self._number, self._device = 0, "cpu"
        self._keeper = Keeper(self.settings, self, self._command, self._fetch)
        self.board.turn("loading")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keeper.run)
                yield
                nursery.cancel_scope.cancel()
        finally:
            self._fail_all(EngineCrashed("the model was stopped"))

    async def handle(self, message: Message) -> None:
        match message:
            case Enqueue(ticket=ticket):
                self._admit(ticket)
                self._line.add(ticket)
                self._dispatch()
                message.reply(None)
            case Withdraw(ticket=ticket):
                self._line.remove(ticket)
            case _:
                assert_never(message)

    def _admit(self, ticket: Ticket) -> None:
        if self.board.state == "failed" and self.board.error is not None:
            raise self.board.error.again()
        running = sum(len(one.rows[row]) // 4 for one, row in self._batch)
        tokens = self._line.tokens + running + ticket.tokens
        wait = tokens / self._tokens_per_s if self._tokens_per_s else 0.0
        patience = ticket.deadline - trio.current_time()
        if len(self._line) >= self.settings.queue or wait > patience:
            raise Overloaded(
                f"{len(self._line)} requests wait for embeddings, with this one about {wait:.1f} s "
                "of work",
                retry_after_s=max(0.5, wait - patience),
            )

    def _dispatch(self) -> None:
        """Send the next batch, if the worker has none."""
        if self._batch or not self._keeper.up or self.board.state != "ready":
            return
        most = BATCH_TOKENS if self._device == "cpu" else GPU_BATCH_TOKENS
        now = trio.current_time()
        while batch := self._line.take(most):
            for late in {ticket for ticket, _ in batch if now > ticket.deadline}:
                self._line.remove(late)
                late.fail(Overloaded("its turn came too late", retry_after_s=1))
            if alive := [(ticket, row) for ticket, row in batch if not ticket.ended.is_set()]:
                self._batch, self._began_at, self._number = alive, now, next(self._numbers)
                rows = tuple(ticket.rows[row] for ticket, row in alive)
                self._keeper.send(Embed(self._number, rows))
                return

    def _fail_all(self, error: EngineError) -> None:
        for ticket in {*self._line.clear(), *(ticket for ticket, _ in self._batch)}:
            ticket.fail(error)
        self._batch = []

    # What the keeper tells: `r3mes.actors.inference.keeper.Employer`

    def chosen(self, choice: Choice) -> None:
        """It is always torch."""

    async def loaded(self, loaded: Loaded, pid: int) -> None:
        # The width is known only with the first vector, see `heard`.
        self._nascent = await trio.to_thread.run_sync(_ready, loaded)
        self.board.pid, self._device = pid, loaded.device
        self._number = next(self._numbers)
        ids = self._nascent.tokenizer.encode(PROBE).ids
        self._keeper.send(Embed(self._number, (pack_ids(ids),)))

    def lost(self, error: EngineError) -> None:
        self._nascent, self.board.pid = None, None
        self.board.restarts += 1
        batch, self._batch = self._batch, []
        if len({ticket for ticket, _ in batch}) == 1:
            ticket = batch[0][0]
            self._line.remove(ticket)
            ticket.fail(EngineCrashed(error.detail))
        else:
            for ticket, _ in batch:
                ticket.suspect = True
            self._line.put_back(batch)
        if isinstance(error, ModelInvalid):
            self.board.ready = None  # and no further worker comes
        if self.board.ready is None:
            self._fail_all(error)
        self.board.turn("restarting" if self.board.ready else "failed", error)

    def failed(self, ticket_id: int, error: R3mesError) -> None:
        """Only upstream engines fail a request by itself."""

    def heard(self, report: Report) -> None:
        match report:
            case Embedded(id=number, width=width, vectors=vectors) if number == self._number:
                if self._nascent is not None:
                    self.board.ready, self._nascent = replace(self._nascent, width=width), None
                    self.board.turn("ready")
                else:
                    self._hand_out(width, vectors)
                self._dispatch()
            case Pong():
                pass
            case _:
                raise EngineCrashed(f"the worker said {type(report).__name__} unasked")

    def _hand_out(self, width: int, vectors: bytes) -> None:
        batch, self._batch = self._batch, []
        size = 4 * width
        if len(vectors) != size * len(batch):
            raise EngineCrashed(f"{len(vectors)} bytes are not {len(batch)} vectors of {width}")
        self._note_speed(batch)
        for at, (ticket, row) in enumerate(batch):
            ticket.put(row, vectors[at * size : (at + 1) * size])

    def _note_speed(self, batch: Batch) -> None:
        tokens = sum(len(ticket.rows[row]) // 4 for ticket, row in batch)
        speed = tokens / max(trio.current_time() - self._began_at, 1e-6)
        before = self._tokens_per_s or speed
        self._tokens_per_s = before + WEIGHT * (speed - before)


def _ready(loaded: Loaded) -> Ready:
    """What it is but for the width."""
    try:
        tokenizer = Tokenizer.from_str(loaded.tokenizer)
    except Exception as error:
        raise ModelInvalid(f"the tokenizer cannot be used: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    most_bytes = loaded.context * max(map(len, tokenizer.get_vocab()), default=1)
    return Ready(loaded.hash, 0, loaded.context, loaded.vocabulary, most_bytes, tokenizer)
