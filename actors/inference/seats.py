"""Who has which slot of the cache, who waits for one, and what is kept for prompts that come later.

Running answers hold the first slots, in order; prompts are read in the slots behind them.  Memory
is counted in tokens.  What was kept of earlier prompts goes first when it is short; then the
youngest answer is put back and read again later, which costs time and changes no bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import count

from r3mes.actors.inference.answer import Answer
from r3mes.actors.inference.drafting import Draft
from r3mes.actors.inference.engine import Job
from r3mes.actors.inference.prefix import PrefixCache, names_of
from r3mes.actors.inference.reserve import expected, padded
from r3mes.actors.inference.slots import Piece, SlotCache, Stretch

PIECE = 128
"""Tokens of a prompt that attend as one block, and that are kept together."""


class Seated(Answer):
    """An answer that has a slot, or waits for one.

    Args:
        job: what to write.
        number: of the answer, in the order in which they came.
    """

    def __init__(self, job: Job, number: int) -> None:
        super().__init__(job)
        self.number, self.slot = number, 0
        self.draft = Draft()
        self.names = names_of(job.prompt, PIECE, job.owner, job.adapter.to_bytes(8, "big"))

    @property
    def prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.job.prompt)

    @property
    def left(self) -> int:
        """Tokens that it may still get."""
        return self.job.max_new - self.position + len(self.job.emitted)

    @property
    def expected(self) -> int:
        """Room that it will take in the end."""
        return expected(len(self.tokens), self.left)

    def piece(self, begin: int) -> Piece:
        """Of its prompt, from ``begin``."""
        return Piece(self.slot, begin, min(begin + PIECE, self.prompt))

    def tokens_of(self, piece: Piece) -> list[int]:
        return self.tokens[piece.begin : piece.end]

    def name_of(self, piece: Piece) -> bytes:
        """By which it may be recalled; empty if it is not whole, or the last of the prompt."""
        whole = piece.rows == PIECE and piece.end < self.prompt
        return self.names[piece.begin // PIECE] if whole else b""


class Seats:
    """The slots of one cache.

    Args:
        slots: how many.
        length: most tokens of one answer.
        room: tokens that may be kept in all, at least ``length``; None for no bound.
    """

    def __init__(self, slots: int, length: int, room: int | None) -> None:
        self._slots, self._room, self._numbers = slots, room, count()
        self.cache = SlotCache(slots, length)
        self.waiting: deque[Seated] = deque()
        self.reading: list[Seated] = []
        self.running: list[Seated] = []
        self._prefix: PrefixCache[Stretch] = PrefixCache()
        self.recalled = 0
        """Tokens that were not read, as an earlier prompt began alike."""

    @property
    def occupied(self) -> int:
        return len(self.waiting) + len(self.reading) + len(self.running)

    @property
    def kept(self) -> int:
        """Tokens that take memory."""
        return sum(padded(one.cached) for one in self._seated()) + len(self._prefix) * PIECE

    def _seated(self) -> list[Seated]:
        return [*self.running, *self.reading]

    def add(self, job: Job) -> None:
        """Let an answer wait for a slot."""
        self.waiting.append(Seated(job, next(self._numbers)))

    def find(self, job_id: int) -> Seated | None:
        """The answer to a job."""
        everyone: Iterable[Seated] = (*self.waiting, *self._seated())
        return next((one for one in everyone if one.job.id == job_id), None)

    def fill(self) -> None:
        """Give slots to those that wait, in their order, if memory is expected to do for all."""
        promised = sum(one.expected for one in self._seated())
        while self.waiting and len(self._seated()) < self._slots:
            promised += self.waiting[0].expected
            if self._seated() and self._room is not None and promised > self._room:
                return
            answer = self.waiting.popleft()
            taken = {other.slot for other in self._seated()}
            answer.slot = next(slot for slot in range(self._slots) if slot not in taken)
            self.reading.append(answer)

    def run(self, answer: Seated) -> None:
        """Give an answer that was read the first slot behind those that run."""
        self.reading.remove(answer)
        target = len(self.running)
        other = next((other for other in self.reading if other.slot == target), None)
        if other is not None:
            self.cache.swap(answer.slot, target, max(answer.cached, other.cached))
            other.slot = answer.slot
            self.cache.release(other.slot, padded(other.cached))
            self.cache.release(target, padded(answer.cached))
        elif answer.slot != target:
            self.cache.move(answer.slot, target, answer.cached)
            self.cache.release(answer.slot)
        answer.slot = target
        self.running.append(answer)

    def remove(self, answer: Seated) -> None:
        """The last running answer takes over the slot of one that ran."""
        if answer in self.waiting:
            self.waiting.remove(answer)
            return
        if answer in self.reading:
            self.reading.remove(answer)
        else:
            last = self.running.pop()
            if last is not answer:
                self.cache.release(answer.slot)  # what is longer than the last one
                self.cache.move(last.slot, answer.slot, last.cached)
                self.running[answer.slot] = last
                last.slot, answer.slot = answer.slot, last.slot
        self.cache.release(answer.slot)

    def make_room(self, more: int) -> None:
        """For so many tokens more."""
        while self._room is not None and self.kept + more > self._room:
            if self._prefix:
                self._prefix.drop_oldest()
            elif len(self._seated()) > 1:
                self._put_back(max(self._seated(), key=lambda one: one.number))
            else:
                return  # one alone always fits

    def _put_back(self, answer: Seated) -> None:
        self.remove(answer)
        answer.cached = 0
        self.waiting.appendleft(answer)

    # What earlier prompts left

    def recall(self, answer: Seated) -> None:
        """Take pieces of its prompt from earlier ones; its last token is always read."""
        while answer.cached % PIECE == 0 and answer.cached + PIECE < answer.prompt:
            names = answer.names[: answer.cached // PIECE + 1]
            stretch = self._prefix.find(names)
            if stretch is None:
                return
            self.make_room(PIECE)
            if answer not in self.reading:
                return
            self.cache.copy_in(answer.piece(answer.cached), stretch)
            answer.cached += PIECE
            self.recalled += PIECE

    def keep(self, answer: Seated, piece: Piece) -> None:
        """Keep a whole piece that was just read, if there is room without putting anybody back."""
        if piece.rows < PIECE:
            return
        while self._prefix and self._is_over(PIECE):
            self._prefix.drop_oldest()
        if not self._is_over(PIECE):
            names = answer.names[: piece.end // PIECE]
            self._prefix.keep(names, self.cache.copy_out(piece))

    def _is_over(self, more: int) -> bool:
        return self._room is not None and self.kept + more > self._room
