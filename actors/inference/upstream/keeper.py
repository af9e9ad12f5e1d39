"""Stands where the keeper of a worker stands, for a model that a server of the operator's runs.

The actor gives it answers to write and hears of tokens, as from a worker.  There is no process to
watch; instead the server's list of models is asked for now and then.  When it does not answer twice
in a row, the model is restarting, as one whose worker died.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from math import inf
from pathlib import Path

import trio
from tokenizers import Tokenizer

from r3mes.actors.inference.choice import UPSTREAM, Choice
from r3mes.actors.inference.generation import Ticket
from r3mes.actors.inference.keeper import Employer, leaves
from r3mes.actors.inference.protocol import Cancel, Command, Ended, Loaded, Wrote, pack_ids
from r3mes.actors.inference.settings import ModelSettings, UpstreamSettings
from r3mes.actors.inference.upstream.answering import Reading, question_of
from r3mes.actors.inference.upstream.meeting import Met, loaded_of, meet
from r3mes.actors.inference.upstream.server import Server, opened
from r3mes.errors import ConfigError, EngineError, ModelInvalid, R3mesError, UpstreamFailed

logger = logging.getLogger(__name__)

WATCH_EVERY_S = 5.0
MISSED = 2
"""Signs of life that may be missing before the server counts as gone."""
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 30.0
FAREWELL_S = 0.5
"""For what a server says after an answer has ended."""
NO_PID = 0


class UpstreamKeeper:
    """Has answers written by ``upstream``, for ``employer``.

    Args:
        settings: which model, and within which limits.
        upstream: which server.
    """

    directory: Path | None = None
    """There are no files of the model here."""

    def __init__(
        self, settings: ModelSettings, upstream: UpstreamSettings, employer: Employer
    ) -> None:
        self._settings, self._upstream, self._employer = settings, upstream, employer
        self._scopes: dict[int, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._heard_at = -inf

    @property
    def up(self) -> bool:
        """The server has the model."""
        return self._nursery is not None

    def start(self, ticket: Ticket) -> None:
        """Have an answer written."""
        if self._nursery is not None:
            self._scopes[ticket.start.id] = trio.CancelScope()
            self._nursery.start_soon(self._answer, ticket)

    def send(self, command: Command) -> None:
        """Take a `Cancel`; there is nobody to hear other commands."""
        if isinstance(command, Cancel) and command.id in self._scopes:
            self._scopes[command.id].cancel()

    async def deliver(self, command: Command) -> None:
        """Adapters are not carried to a server that is not ours."""
        raise _no_adapters()

    async def locate(self, source: str, revision: str) -> Path:
        """The same: there is nothing to look for."""
        raise _no_adapters()

    def spare_bytes(self) -> float:
        return 0.0

    async def run(self) -> None:
        """Speak with the server until cancelled; meet it again and again while it is not there."""
        self._employer.chosen(Choice(UPSTREAM, f"it is behind {self._upstream.url}"))
        pause = FIRST_PAUSE_S
        while True:
            error, was_up = await self._one_meeting()
            logger.error("model %s: %s", self._settings.name, error)
            self._employer.lost(error)
            pause = FIRST_PAUSE_S if was_up else pause
            await trio.sleep(inf if isinstance(error, ModelInvalid) else pause)
            pause = min(pause * 2, LAST_PAUSE_S)

    async def _one_meeting(self) -> tuple[EngineError, bool]:
        """Serve as long as the server is there; returns why it is not, and whether it was."""
        was_up, failures = False, []
        try:
            async with opened(self._upstream.key_file, self._settings.slots + 2) as server:
                met = await meet(server, self._upstream)
                loaded = await trio.to_thread.run_sync(
                    loaded_of, self._settings, self._upstream, met
                )
                was_up = True
                await self._serve(server, met, loaded)
        except* R3mesError as group:
            failures += leaves(group)
        finally:
            self._nursery = None
        error = failures[0]
        for number in self._scopes:
            self._employer.failed(number, error)  # by itself: none of them brought the server down
        self._scopes.clear()
        if isinstance(error, EngineError):
            return error, was_up
        kind = ModelInvalid if isinstance(error, ConfigError) else UpstreamFailed
        return kind(error.detail, do=error.do), was_up

    async def _serve(self, server: Server, met: Met, loaded: Loaded) -> None:
        self._server, self._met, self._loaded = server, met, loaded
        self._tokenizer = Tokenizer.from_str(loaded.tokenizer)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self._employer.loaded(loaded, NO_PID)
            logger.info(
                "model %s: %s at %s, context %d", self._settings.name, met.dialect.name,
                self._upstream.url, loaded.context,
            )  # fmt: skip
            await self._watch(server, met)

    async def _watch(self, server: Server, met: Met) -> None:
        """Until the server is silent, or another one than it was."""
        missed = 0
        while True:
            await trio.sleep(WATCH_EVERY_S)
            if trio.current_time() - self._heard_at < WATCH_EVERY_S:
                missed = 0  # it writes: a busy server may be slow to say so
                continue
            try:
                now = await meet(server, self._upstream)
            except R3mesError:
                missed += 1
                if missed == MISSED:
                    raise
            else:
                missed = 0
                if now != met:
                    raise UpstreamFailed("the server is another one now")

    async def _answer(self, ticket: Ticket) -> None:
        """Write one answer; whatever becomes of it, the others go on."""
        number = ticket.start.id
        with self._scopes[number] as scope:
            try:
                reason = await self._write(ticket)
            except R3mesError as error:
                self._employer.failed(number, error)
            else:
                self._employer.heard(Ended(number, reason))
        del self._scopes[number]
        if scope.cancelled_caught and scope.cancel_called:
            self._employer.heard(Ended(number, "cancelled"))

    async def _write(self, ticket: Ticket) -> str:
        dialect, start = self._met.dialect, ticket.start
        question = question_of(ticket, self._upstream.model, dialect, self._loaded.context)
        reading = Reading(
            dialect=dialect,
            tokenizer=self._tokenizer,
            stop_ids=frozenset(self._loaded.stop_ids),
            vocabulary=self._loaded.vocabulary,
            max_new=start.max_new,
        )
        path = dialect.path(self._upstream.url)
        async with self._server.stream(path, dialect.body(question)) as lines:
            ticket.begin()  # not before: what it refuses can still be asked elsewhere
            async with aclosing(reading.ids(lines)) as pieces:
                async for ids in pieces:
                    self._heard_at = trio.current_time()
                    self._employer.heard(Wrote(start.id, ticket.position, pack_ids(ids)))
            if reading.told:  # else it would still be writing
                with trio.move_on_after(FAREWELL_S):
                    async for _ in lines:
                        pass  # to its end, so that the connection serves again
        return reading.reason


def _no_adapters() -> EngineError:
    return EngineError("a model behind another server has no adapters of this node's")
