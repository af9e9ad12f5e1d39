"""Which of our native ways a model may be computed by, the fastest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from r3mes.actors.inference.batching_engine import BatchingEngine
from r3mes.actors.inference.loading import LoadedModel
from r3mes.actors.inference.native.forward import NativeForward
from r3mes.actors.inference.native.operators import (
    DTYPE,
    NAME,
    NativeLinear,
    load,
    replace_linears,
    restore_linears,
)
from r3mes.actors.inference.native.place import Place, is_there, lacking, place_of, why_not
from r3mes.actors.inference.native.program import Program
from r3mes.errors import EngineError

UNBUILT = "what is faster is built in the background, or waits to be"
BY_PROGRAM, BY_OPERATORS = "a program compiled for this machine", "operators made for this machine"


@dataclass(frozen=True, slots=True)
class Wish:
    """What of this machine's own may be used.

    Args:
        programs: where it lies; None to use nothing.
        directory: of the model.
        scaled: weights shall be bytes with a scale for each output.
    """

    programs: Path | None
    directory: Path
    scaled: bool = False


NOTHING = Wish(None, Path())


class NativeWays:
    """The ways for one model; iterate for an engine that goes each, until one is good enough.

    Once the iteration has come to its end the model is as it was, except for its attention.

    Args:
        model: that is loaded, with torch's own linear layers.
        wish: what may be used.
        slots: of each engine.
    """

    def __init__(self, model: LoadedModel, wish: Wish, *, slots: int) -> None:
        self._model, self._wish, self._slots = model, wish, slots
        self.why_not = self._lacking()
        """What is in the way of the better ones; empty if nothing."""
        self._way = ""
        self.unbuilt = False
        """Whether it is in the way only because nobody has built it yet."""

    @property
    def scaled(self) -> bool:
        """Whether weights are rounded to bytes."""
        return self._wish.scaled

    @property
    def plan(self) -> str:
        """The present way, as a part of the numeric class."""
        return f"{self._way}{' in bytes' if self.scaled else ''}"

    def _lacking(self) -> str:
        if self._wish.programs is None:
            return "the configuration wants none"
        if self._model.numerics.device != "cpu" or self._model.module.dtype != DTYPE:
            return "only bfloat16 on a CPU has any"
        return lacking()

    def __iter__(self) -> Iterator[BatchingEngine]:
        if self.why_not or self._wish.programs is None:
            return
        wish = self._wish
        place = place_of(self._wish.programs, wish.directory, scaled=wish.scaled)
        kernels, program = is_there(place.kernels), is_there(place.program)
        if not (kernels and program):
            refusal = why_not(place)
            self.why_not, self.unbuilt = refusal or UNBUILT, not refusal
        if kernels:
            try:
                yield from self._engines(place, program=program)
            except Exception as error:  # noqa: BLE001  whatever a model's code makes of it
                self.why_not = f"{type(error).__name__}: {error}"
            if wish.scaled:  # what was rounded cannot be put back
                raise EngineError(
                    f"this model cannot be computed with weights in bytes: {self.why_not}",
                    do='set weights = "stored"',
                )
            restore_linears(self._model.module)

    def _engines(self, place: Place, *, program: bool) -> Iterator[BatchingEngine]:
        module = self._model.module
        load(place.kernels)
        module.set_attn_implementation(NAME)
        replace_linears(module, partial(NativeLinear.of, scaled=self._wish.scaled))
        if program:
            try:
                compiled = Program(place.program, module)
            except Exception as error:  # noqa: BLE001  torch has no kind of its own for it
                self.why_not = f"the program cannot be loaded: {error}"
            else:
                self._way = "compiled"
                yield self._engine(compiled, BY_PROGRAM)
                self.why_not = "the compiled program computes something else"
        self._way = "operators"
        yield self._engine(None, BY_OPERATORS)
        self.why_not = "our operators compute something else"

    def _engine(self, program: Program | None, native: str) -> BatchingEngine:
        engine = BatchingEngine(
            self._model,
            slots=self._slots,
            room=self._model.numerics.room,
            by=partial(NativeForward, program=program),
        )
        engine.numerics = replace(engine.numerics, native=native)
        return engine
