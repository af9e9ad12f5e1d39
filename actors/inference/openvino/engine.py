"""Writes answers by an OpenVINO program: one call a step, with all that is to be computed.

A step is a token of every running answer and pieces of the prompts that came first, in one call.
The bits of an answer depend on who shares the call (measured; `docs/engines.md`), which the
numeric class says: ``inexact``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from r3mes.actors.inference.answer import Answer
from r3mes.actors.inference.engine import Capacity, Event, Job, Numerics
from r3mes.actors.inference.openvino.program import Piece, Program

PIECE = 128
"""Tokens of a prompt in one step."""
STEP = 512
"""Tokens of all prompts in one step: bounds how long running answers and a ping wait."""


class OpenVinoEngine:
    """An `r3mes.actors.inference.engine.Engine` on OpenVINO.

    Args:
        program: the model, with memory for ``slots`` answers.
        numerics: what it is.
    """

    gpu_bytes = 0

    def __init__(self, program: Program, numerics: Numerics, *, slots: int) -> None:
        self._program, self.numerics = program, numerics
        self._free = [*range(slots)]
        self._answers: dict[int, Answer] = {}  # by slot, first come first
        self.adapters = None

    @property
    def capacity(self) -> Capacity:
        return Capacity(len(self._answers), len(self._free))

    def start(self, job: Job) -> None:
        self._answers[self._free.pop()] = Answer(job)

    def cancel(self, job_id: int) -> Sequence[Event]:
        for slot, answer in self._answers.items():
            if answer.job.id == job_id:
                self._leave(slot)
                return [Event(job_id, answer.position, ended="cancelled")]
        return []

    def step(self) -> Sequence[Event]:
        pieces = [*self._pieces()]
        logits = iter(self._program.run(pieces))
        events = []
        for piece in pieces:
            answer = self._answers[piece.slot]
            answer.cached = piece.end
            if piece.wanted:
                event = answer.choose(next(logits))
                events.append(event)
                if event.ended:
                    self._leave(piece.slot)
        return events

    def _pieces(self) -> Iterator[Piece]:
        """A token of each that runs, and of the others as much as a step may have."""
        left = STEP
        for slot, answer in self._answers.items():
            begin, whole = answer.cached, len(answer.tokens)
            size = min(PIECE, whole - begin)
            if size > 1:
                size = min(size, left)
                left -= size
            if size:
                tokens = answer.tokens[begin : begin + size]
                yield Piece(slot, begin, tokens, wanted=begin + size == whole)

    def _leave(self, slot: int) -> None:
        del self._answers[slot]
        self._free.append(slot)
