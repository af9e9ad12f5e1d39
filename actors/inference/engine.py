"""What an engine is: the seam between the worker's loop and whatever writes the tokens.

The loop calls `Engine.step` again and again and reads its commands between two steps, so a step
must be short: pieces of a few prompts (the batching engine reads up to 8), or the next token of
every running answer, several where drafts of them came true.  One answer after the other, a
continuous batcher and OpenVINO fit behind the same members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from r3mes.actors.inference.sampling import Logits, Sampling


class Guide(Protocol):
    """Says which tokens may come next; `r3mes.actors.inference.guide.Guide` is one."""

    @property
    def finished(self) -> bool:
        """Nothing may follow."""

    def allowed(self, logits: Logits) -> Logits:
        """The logits of the tokens that may come next, all others -inf; `BadRequest` if none."""

    def take(self, token: int) -> None:
        """The answer goes on with ``token``; raises `BadRequest` if that is too complex."""


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to write.

    Args:
        id: names it in `Event`.
        prompt: token ids, at least one.
        emitted: token ids of the answer that were written before, here or elsewhere.
        max_new: most tokens to write, at least one.
        stop_ids: the answer ends before any of them.
        adapter: the number of one that was loaded; 0 for the model as it is.
        owner: who asked; what was kept of one's prompts serves nobody else.
        logprobs: how many log-probabilities to tell of each token, its own the first; 0 for none.
        guide: what the answer must look like; it is moved along, so each job has its own.
    """

    id: int
    prompt: tuple[int, ...]
    emitted: tuple[int, ...]
    sampling: Sampling
    max_new: int
    stop_ids: frozenset[int]
    adapter: int = 0
    owner: bytes = b""
    logprobs: int = 0
    guide: Guide | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """What a step did for one job.

    Args:
        position: of the first of ``ids``, counted from the first token after the prompt.
        ids: new tokens; may be empty.
        ended: ``stop``, ``length``, ``cancelled`` or ``refused`` if this was the last; else empty.
        logprobs: of each of ``ids``, as `r3mes.actors.inference.logprobs` packs them, so that those
            of two events can be joined; empty if they were not asked for.
        why: it is ``refused``.
    """

    id: int
    position: int
    ids: tuple[int, ...] = ()
    ended: str = ""
    logprobs: bytes = b""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many answers are being written, how many more could be, and what it took so far.

    Args:
        prompt_tokens: of all prompts since the engine was made.
        cached_tokens: those that were not read, as an earlier prompt began alike.
        kv_bytes: memory of keys and values now.
    """

    running: int
    free_slots: int
    prompt_tokens: int = 0
    cached_tokens: int = 0
    kv_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Numerics:
    """What the loaded model is and how it computes.

    Args:
        context: prompt and answer together, in tokens.
        vocabulary: token ids are below it.
        numeric_class: engines of the same class give the same bits (``docs/decisions``).
        stop_ids: the model's own ends of an answer.
        room: tokens whose keys and values fit into memory; 0 for no known bound.
        native: what of it is code made for this machine, or why nothing is.
        unbuilt: whether there could be more, if it were built.
    """

    architecture: str
    parameters: int
    dtype: str
    device: str
    context: int
    vocabulary: int
    numeric_class: str
    stop_ids: tuple[int, ...]
    room: int = 0
    native: str = ""
    unbuilt: bool = False

    def of_class(self, order: str) -> Numerics:
        """The same with an order of computation: another order, other bits."""
        return replace(self, numeric_class=f"{self.numeric_class}, {order}")


class AdapterHost(Protocol):
    """The adapters of an engine's model that are in memory; changed between two steps."""

    @property
    def memory_bytes(self) -> int:
        """What all of them take together."""

    def load(self, number: int, settings: Mapping[str, Any], weights: bytes) -> str:
        """Keep one under ``number``; returns how it computes, for the numeric class.

        Args:
            number: that jobs will name it by; not 0.
            settings: its description, in PEFT's form.
            weights: its safetensors file.

        Raises:
            ModelInvalid: it is damaged, or of another model.
            EngineError: there is no memory for it.
        """

    def unload(self, number: int) -> None:
        """Forget one that no job names any more."""


class Engine(Protocol):
    """Writes answers, step by step; never blocks for longer than one step."""

    @property
    def adapters(self) -> AdapterHost | None:
        """Where adapters of its model go; None if it runs none."""

    @property
    def numerics(self) -> Numerics: ...

    @property
    def capacity(self) -> Capacity: ...

    @property
    def gpu_bytes(self) -> int:
        """Memory that it has taken on its GPU; 0 without one.  Slower than a step may be."""

    def start(self, job: Job) -> None:
        """Take a job.  The caller keeps to `capacity`."""

    def cancel(self, job_id: int) -> Sequence[Event]:
        """Drop a job; unknown ids are ignored."""

    def step(self) -> Sequence[Event]:
        """Do one short piece of work; empty when nothing was finished by it."""
