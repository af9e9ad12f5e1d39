"""Decides which route a prompt takes, with what it has: the model for embeddings, or words.

The routes may change at any time.  What is compared with them is prepared in the background, words
first; until the vectors are there, and whenever the model for embeddings does not answer, words
decide, and the decision says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import trio
from numpy.typing import NDArray

from r3mes.actors.semantic.calibration import Calibration, calibrate
from r3mes.actors.semantic.comparing import Comparer, Vectors, Words
from r3mes.actors.semantic.decision import Decision, Labels, Method, Scores, strongest
from r3mes.errors import R3mesError

logger = logging.getLogger(__name__)

PROMPT_CHARACTERS = 4000
"""Of a prompt that count: its beginning says what it is about."""
PREPARE_S, DECIDE_S = 600.0, 1.0
"""Longest time for vectors of all examples, and of a prompt before words decide."""
RETRY_S = 30.0
"""After vectors could not be made, although the model is there: it was busy, or has just died."""
TOGETHER = 256
"""Examples that are embedded at a time, so that their sum may be larger than a request."""


@dataclass(frozen=True, slots=True)
class Route:
    """A kind of prompt.

    Args:
        examples: prompts of this kind.
        held_out: more of them, from which thresholds are computed.
    """

    name: str
    model: str
    examples: tuple[str, ...]
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """All routes.

    Args:
        outside: prompts that belong to none of them.
        outside_held_out: more of these, from which thresholds are computed.
        most_wrong: the share of prompts that may go to a wrong route.
    """

    routes: tuple[Route, ...] = ()
    outside: tuple[str, ...] = ()
    outside_held_out: tuple[str, ...] = ()
    most_wrong: float = 0.05

    def examples(self) -> tuple[list[str], Labels]:
        """All examples, and to which route each belongs."""
        return _labelled([*(route.examples for route in self.routes), self.outside])

    def held_out(self) -> tuple[list[str], Labels]:
        """The same of those that the examples have not."""
        return _labelled([*(route.held_out for route in self.routes), self.outside_held_out])


def _labelled(groups: Sequence[tuple[str, ...]]) -> tuple[list[str], Labels]:
    texts = [text for group in groups for text in group]
    labels = [label for label, group in enumerate(groups) for _ in group]
    return texts, np.array(labels, np.int64)


class Embedder(Protocol):
    """The model for embeddings."""

    def hash(self) -> bytes | None:
        """Of its files; None while it cannot embed."""
        ...

    async def wait_change(self) -> None:
        """Wait until `hash` may be another."""
        ...

    async def vectors(self, texts: Sequence[str], *, deadline_s: float) -> NDArray[np.float32]:
        """Of length 1; of long texts their beginnings'.

        Raises:
            R3mesError: why there are none.
        """
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """What prompts are compared with, of which plan, and by which thresholds.

    Args:
        hash: of the model that made the vectors; empty for words.
    """

    plan: Plan
    comparer: Vectors | Words
    calibration: Calibration
    hash: bytes = b""

    def decide(self, scores: Scores, method: Method) -> Decision:
        """The decision about one prompt; ``scores`` has one row."""
        best, top, margin = strongest(scores)
        score, lead = float(top[0]), float(margin[0])
        thresholds = self.calibration.thresholds
        return Decision(
            route=self.plan.routes[int(best[0])].name,
            score=score,
            margin=lead,
            abstained=score <= thresholds.score or lead < thresholds.margin,
            method=method,
        )


class SemanticRouter:
    """Decides; `run` prepares what it compares with.

    Args:
        embedder: None if no model for embeddings is configured.
    """

    def __init__(self, embedder: Embedder | None, plan: Plan) -> None:
        self._embedder = embedder
        self._plan = plan
        self._changed = trio.Event()
        self.words: Prepared | None = None
        self.vectors: Prepared | None = None
        self.prepared = trio.Event()
        """Set while everything that can be compared with now is there."""

    @property
    def plan(self) -> Plan:
        return self._plan

    def follow(self, plan: Plan) -> None:
        """Decide by these routes from now on, as soon as they are prepared."""
        self._plan = plan
        self.words = self.vectors = None
        self._wake()

    def _wake(self) -> None:
        self.prepared = trio.Event()
        self._changed.set()
        self._changed = trio.Event()

    async def decide(self, prompt: str) -> Decision:
        """Which route a prompt takes."""
        text = prompt[:PROMPT_CHARACTERS]
        if not self._plan.routes:
            return Decision(None, 0.0, 0.0, True, "none", "no routes are configured")
        if not text.strip():
            return Decision(None, 0.0, 0.0, True, "none", "the prompt has no text")
        if self._embedder is None:
            return self._by_words(text, None)
        prepared = self.vectors
        if prepared is None:
            return self._by_words(text, "the vectors of the examples are not there yet")
        try:
            vectors = await self._embedder.vectors([text], deadline_s=DECIDE_S)
        except R3mesError as error:
            return self._by_words(text, f"the model for embeddings: {error.detail}")
        if not isinstance(prepared.comparer, Vectors) or prepared.plan is not self._plan:
            return self._by_words(text, "the routes have just changed")
        return prepared.decide(prepared.comparer.scores(vectors), "embedding")

    def _by_words(self, text: str, why: str | None) -> Decision:
        prepared = self.words
        if prepared is None or not isinstance(prepared.comparer, Words):
            return Decision(None, 0.0, 0.0, True, "none", "the routes are being prepared")
        return replace(prepared.decide(prepared.comparer.scores([text]), "keywords"), why=why)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Prepare whenever routes or model change, until cancelled."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            if self._embedder is not None:
                nursery.start_soon(self._watch_model, self._embedder)
            while True:
                changed, prepared, pause = self._changed, self.prepared, math.inf
                try:
                    await self._prepare(self._plan)
                except R3mesError as error:
                    logger.warning("the routes have no vectors: %s", error.detail)
                    pause = RETRY_S
                prepared.set()
                with trio.move_on_after(pause):
                    await changed.wait()

    async def _watch_model(self, embedder: Embedder) -> None:
        before = embedder.hash()
        while True:
            await embedder.wait_change()
            now = embedder.hash()
            if now is not None and (now != before or self.vectors is None):
                before = now
                self._wake()

    async def _prepare(self, plan: Plan) -> None:
        if not plan.routes:
            return
        if self.words is None:
            words = await trio.to_thread.run_sync(_words, plan)
            self.words = words if plan is self._plan else None
        embedder = self._embedder
        if embedder is None or (hashed := embedder.hash()) is None:
            return
        there = self.vectors
        if there is not None and (there.plan, there.hash) == (plan, hashed):
            return
        (texts, labels), (held_out, where) = plan.examples(), plan.held_out()
        own = await _vectors(embedder, texts)
        others = await _vectors(embedder, held_out)
        comparer = Vectors(own, labels, len(plan.routes))
        compare = partial(comparer.scores, others)
        found = await trio.to_thread.run_sync(_calibrate, plan, comparer, labels, compare, where)
        if plan is self._plan:
            self.vectors = Prepared(plan, comparer, found, hashed)
            logger.info(
                "%d routes with %d examples; of %d prompts %d right, %d abstained, %d wrong",
                len(plan.routes), len(texts),
                found.prompts, found.right, found.abstained, found.wrong,
            )  # fmt: skip


async def _vectors(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    parts = [
        await embedder.vectors(texts[at : at + TOGETHER], deadline_s=PREPARE_S)
        for at in range(0, len(texts), TOGETHER)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def _words(plan: Plan) -> Prepared:
    (texts, labels), (held_out, where) = plan.examples(), plan.held_out()
    comparer = Words(texts, labels, len(plan.routes))
    compare = partial(comparer.scores, held_out)
    return Prepared(plan, comparer, _calibrate(plan, comparer, labels, compare, where))


def _calibrate(
    plan: Plan,
    comparer: Comparer,
    labels: Labels,
    compare_held_out: partial[Scores],
    where: Labels,
) -> Calibration:
    """From the prompts held out; from the examples, each left out in turn, if there are none."""
    if len(where):
        return calibrate(compare_held_out(), where, plan.most_wrong)
    return calibrate(comparer.among_themselves(), labels, plan.most_wrong)
