"""The engine on torch: answers join and leave between two steps, and are written together.

One step is one token of every running answer, and some pieces of the prompts that are not read
yet: every second time of those with the least left, so that a short prompt does not wait for a
long one, and in between of the one that came first, so that a long one is read, too.

The order of computation keeps the bits of an answer: the prompt in pieces with fixed borders, then
each token as a row by itself, also those that another server wrote, and never one row alone.  Why
that helps is said in `r3mes.actors.inference.slots` and `r3mes.actors.inference.packed`; whether it
holds here is tried out by `r3mes.actors.inference.self_test`.  So nothing changes if pieces of many
prompts are read together, or not read at all because an earlier prompt began alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeAlias

import torch

from r3mes.actors.inference.engine import Capacity, Event, Job
from r3mes.actors.inference.forward import Call, Forward, PlainForward
from r3mes.actors.inference.loading import LoadedModel
from r3mes.actors.inference.low_rank import Adapters
from r3mes.actors.inference.reserve import padded
from r3mes.actors.inference.sampling import Logits
from r3mes.actors.inference.seats import PIECE, Seated, Seats
from r3mes.actors.inference.slots import Piece, SlotCache, piece_pass, row_pass

REPLAY = 32
"""Tokens that were written elsewhere in one step."""
READING_S, PIECES = 0.25, 8
"""How long a step may read, about, and how many pieces, while nobody's next token waits for it."""

MakeForward: TypeAlias = Callable[[Any, SlotCache, Adapters], Forward]
OnLogits = Callable[[int, int, Logits], None]
"""Told of the logits of each token: the job, the position in its answer, shape (vocabulary,)."""


def unheard(job: int, position: int, logits: Logits) -> None:
    """Nobody looks at the logits."""


def at_least_two(rows: list[int]) -> list[int]:
    """A row is never computed alone: that would take another path, with other bits."""
    return rows * 2 if len(rows) == 1 else rows


class BatchingEngine:
    """An `r3mes.actors.inference.engine.Engine` that writes all answers in one call of the model.

    Args:
        model: whose attention is `r3mes.actors.inference.slots.attend`.
        slots: answers written at the same time.
        room: tokens whose keys and values may be kept; at least the model's context.
        by: how a call of the model is computed.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        slots: int,
        room: int | None = None,
        by: MakeForward = PlainForward,
    ) -> None:
        self.numerics = model.numerics
        self.on_logits: OnLogits = unheard
        self._device = torch.device(model.numerics.device)
        self.adapters = Adapters(model.module, self._device, model.module.dtype, model.siblings)
        self._slots, self._seats = slots, Seats(slots, model.numerics.context, room)
        self._turns, self._prompt_tokens = count(), 0
        self._row_s = READING_S / PIECE  # that one token of a prompt took
        self._forward = by(model.module, self.cache, self.adapters)

    @property
    def cache(self) -> SlotCache:
        return self._seats.cache

    @property
    def capacity(self) -> Capacity:
        seats, running = self._seats, self._seats.occupied
        return Capacity(
            running,
            self._slots - running,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=seats.recalled,
            kv_bytes=seats.kept * seats.cache.bytes_per_token,
        )

    @property
    def gpu_bytes(self) -> int:
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0

    def start(self, job: Job) -> None:
        self._seats.add(job)
        self._prompt_tokens += len(job.prompt)

    def cancel(self, job_id: int) -> Sequence[Event]:
        answer = self._seats.find(job_id)
        if answer is None:
            return []
        self._seats.remove(answer)
        return [Event(job_id, answer.position, ended="cancelled")]

    def step(self) -> Sequence[Event]:
        match self._seats.running:
            case []:
                written = []
            case [alone]:
                written = self._write_alone(alone)
            case _:
                written = self._write()
        self._seats.fill()
        return [*written, *(self._enter() if self._seats.reading else [])]

    def _enter(self) -> list[Event]:
        """Read on in answers that are not running yet; the first tokens of those that are read."""
        for answer in list(self._seats.reading):
            if answer in self._seats.reading:  # another's recall may have put it back
                self._seats.recall(answer)
        order = sorted(self._seats.reading, key=self._turn())
        if order and order[0].cached >= order[0].prompt:
            return self._replay(order[0])
        return self._read(order)

    def _turn(self) -> Callable[[Seated], int]:
        """Who comes first this time."""
        if next(self._turns) % 2:
            return lambda answer: answer.number
        return lambda answer: len(answer.tokens) - answer.cached

    def _read(self, order: Sequence[Seated]) -> list[Event]:
        share = self._share(order)
        self._seats.make_room(sum(padded(piece.end) - padded(piece.begin) for _, piece in share))
        share = [(answer, piece) for answer, piece in share if answer in self._seats.reading]
        if not share:
            return []
        began = time.perf_counter()
        last = self._last_rows(share)
        self._row_s = (time.perf_counter() - began) / sum(piece.rows for _, piece in share)
        for answer, piece in share:  # all of them, before one that begins changes places
            answer.cached = piece.end
            self._seats.keep(answer, piece)
        return [
            self._begin(answer, logits)
            for (answer, piece), logits in zip(share, last, strict=False)
            if piece.end == len(answer.tokens)
        ]

    def _share(self, order: Sequence[Seated]) -> list[tuple[Seated, Piece]]:
        """The pieces that are read in this step."""
        idle = 0 if self._seats.running else int(READING_S / self._row_s / PIECE)
        left = min(max(idle, 1), PIECES) * PIECE
        share: list[tuple[Seated, Piece]] = []
        names: set[bytes] = set()
        for answer in order:
            begin = answer.cached
            while begin < answer.prompt:
                piece = answer.piece(begin)
                name = answer.name_of(piece)
                if (share and piece.rows > left) or name in names:
                    break  # the same piece of another's prompt can be recalled in the next step
                names.update([name] if name else [])
                share.append((answer, piece))
                begin, left = piece.end, left - piece.rows
        return share

    def _last_rows(self, share: Sequence[tuple[Seated, Piece]]) -> Logits:
        """The logits of the last row of each piece."""
        tokens = [token for answer, piece in share for token in answer.tokens_of(piece)]
        adapters = [one.job.adapter for one, piece in share for _ in range(piece.rows)]
        pieces = [piece for _, piece in share]
        last = [sum(piece.rows for piece in pieces[: at + 1]) - 1 for at in range(len(pieces))]
        if len(tokens) == 1:  # as two pieces, as each attends by itself
            tokens, pieces, adapters = tokens * 2, pieces * 2, adapters * 2
        this = piece_pass(pieces, self._device)
        return self._forward(Call(tokens, adapters, this, at_least_two(last)))

    def _replay(self, answer: Seated) -> list[Event]:
        """Read on in what was written elsewhere."""
        begin, end = answer.cached, min(answer.cached + REPLAY, len(answer.tokens))
        self._seats.make_room(padded(end) - padded(begin))
        if answer not in self._seats.reading:
            return []
        tokens = at_least_two(answer.tokens[begin:end])
        positions = at_least_two([*range(begin, end)])
        this = row_pass([answer.slot] * len(positions), positions, self._device)
        last = len(tokens) - 1
        adapters = [answer.job.adapter] * len(tokens)
        logits = self._forward(Call(tokens, adapters, this, [last, last]))[0]
        answer.cached = end
        return [self._begin(answer, logits)] if end == len(answer.tokens) else []

    def _begin(self, answer: Seated, logits: Logits) -> Event:
        """Choose the first token that is written here."""
        event = self._choose(answer, logits)
        if event.ended:
            self._seats.remove(answer)
        else:
            self._seats.run(answer)
        return event

    def _write(self) -> list[Event]:
        self._seats.make_room(
            sum(padded(one.cached + 1) - padded(one.cached) for one in self._seats.running)
        )
        answers = list(self._seats.running)
        if not answers:
            return []
        slots = at_least_two([*range(len(answers))])
        positions = at_least_two([answer.cached for answer in answers])
        tokens = at_least_two([answer.tokens[-1] for answer in answers])
        adapters = at_least_two([answer.job.adapter for answer in answers])
        this = row_pass(slots, positions, self._device)
        logits = self._forward(Call(tokens, adapters, this, range(len(tokens))))
        events = []
        for answer, row in zip(answers, logits, strict=False):
            answer.cached += 1
            events.append(self._choose(answer, row))
        for answer, event in zip(reversed(answers), reversed(events), strict=True):
            if event.ended:
                self._seats.remove(answer)
        return events

    def _write_alone(self, answer: Seated) -> list[Event]:
        """Write a token, and those of a draft as far as they are what would come anyway.

        One row would be computed twice, so that the first token of a draft costs nothing.  As more
        run, rows are dear and what they gain is less.
        """
        draft = answer.draft.propose(answer.tokens, answer.left - 1)
        end = answer.cached + 1 + len(draft)
        self._seats.make_room(padded(end) - padded(answer.cached))
        if answer not in self._seats.running:
            return []
        tokens = at_least_two([answer.tokens[-1], *draft])
        positions = at_least_two([*range(answer.cached, end)])
        adapters = [answer.job.adapter] * len(tokens)
        this = row_pass([answer.slot] * len(tokens), positions, self._device)
        logits = self._forward(Call(tokens, adapters, this, range(len(tokens))))
        events = []
        for row, drafted in zip(logits, [*draft, None], strict=False):
            answer.cached += 1
            events.append(self._choose(answer, row))
            if events[-1].ended or answer.tokens[-1] != drafted:
                break
        if draft:
            answer.draft.learn(len(draft), len(events) - 1)
        if events[-1].ended:
            self._seats.remove(answer)
        return events

    def _choose(self, answer: Seated, logits: Logits) -> Event:
        self.on_logits(answer.job.id, answer.position, logits)
        return answer.choose(logits)
