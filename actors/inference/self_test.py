"""Which engine a model gets, and what holds of its bits: tried out when it is loaded."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from math import inf
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import torch

from r3mes.actors.inference.batching_engine import BatchingEngine, unheard
from r3mes.actors.inference.engine import Engine, Job
from r3mes.actors.inference.loading import LoadedModel
from r3mes.actors.inference.low_rank import watching
from r3mes.actors.inference.memory import free_bytes
from r3mes.actors.inference.native.opening import NOTHING, NativeWays, Wish
from r3mes.actors.inference.packed import pack
from r3mes.actors.inference.reserve import budget, fitting
from r3mes.actors.inference.sampling import Logits, Sampling
from r3mes.actors.inference.sequential_engine import SequentialEngine
from r3mes.actors.inference.slots import NAME
from r3mes.errors import EngineError

logger = logging.getLogger(__name__)

TOKENS = 150
"""Of the prompt that is tried: over one piece, and several padded spans."""
ANSWER, EMITTED = 8, 5
LEAST_CONTEXT = 256
"""Tokens of one answer, below which a model is not worth serving."""
FULL, SLIDING = "full_attention", "sliding_attention"
CLOSE, CLOSE_IN_HALF, CLOSE_IN_BYTES = 1e-3, 0.05, 0.2
"""Distance of our logits from those of transformers over their length, by precision."""


def open_engine(
    model: LoadedModel,
    wish: Wish = NOTHING,
    *,
    slots: int,
    kv_bytes: int = 0,
    memory_bytes: int = 0,
) -> Engine:
    """The engine that writes answers together; in turn, where that would be wrong or not exact.

    What was made for this machine comes first, if it computes what transformers computes.  A GPU
    makes no promise about bits, and gets the fast engine all the same; the class says so.

    Args:
        model: as it was loaded.
        wish: what of this machine's own may be used.
        slots: answers written at the same time.
        kv_bytes: most memory of keys and values; 0 for about as much as the model itself takes.
        memory_bytes: that the process may occupy; 0 for no cap.

    Raises:
        EngineError: no answer would fit into ``kv_bytes``.
    """
    own, trial = model.module.config._attn_implementation, BatchingEngine(model, slots=1)
    why = _entangled(model.module.config.get_text_config())
    if not why:
        try:
            expected = _expected(model)
            why = _differs(model, trial, expected)
        except Exception as error:  # noqa: BLE001  whatever a model's code makes of it
            why = f"{type(error).__name__}: {error}"
    if not why:
        most = kv_bytes or _own_choice(model, memory_bytes)
        within = _within(model, slots, most, trial.cache.bytes_per_token)
        ways = NativeWays(within, wish, slots=slots)
        engine = _native(ways, expected) or _plain(within, slots=slots)
        if engine is not None:
            lacks = f"; {ways.why_not}" if ways.why_not else ""
            native = (engine.numerics.native or "nothing made for this machine") + lacks
            engine.numerics = replace(engine.numerics, native=native, unbuilt=ways.unbuilt)
            return engine
        why = "the bits of one would depend on the others"
    logger.warning("answers are written in turn and not together: %s", why)
    model.module.set_attn_implementation(own)
    return SequentialEngine(model, slots=slots)


def _native(ways: NativeWays, expected: torch.Tensor) -> BatchingEngine | None:
    """The first of the ways that computes what is expected, and keeps the bits."""
    for engine in ways:
        try:
            distance, (exact, digest) = _distance(engine, expected), _bits(engine)
        except Exception:  # what is wrong with it shows here first
            logger.exception("%s cannot be used", ways.plan)
            continue
        if exact and distance < (CLOSE_IN_BYTES if ways.scaled else CLOSE_IN_HALF):
            plan = f"native plan 1, {ways.plan}, exact, {digest}"
            engine.numerics = engine.numerics.of_class(plan)
            return engine
    return None


def _plain(model: LoadedModel, *, slots: int) -> BatchingEngine | None:
    """By the operators of torch; None if the bits are not kept, though they are promised."""
    model.module.set_attn_implementation(NAME)
    pack(model.module)
    engine = BatchingEngine(model, slots=slots, room=model.numerics.room)
    exact, digest = _bits(engine)
    if not exact and engine.numerics.device == "cpu":
        return None
    word = "exact" if exact else "inexact"
    engine.numerics = engine.numerics.of_class(f"together, plan 3, {word}, {digest}")
    return engine


def _own_choice(model: LoadedModel, memory_bytes: int) -> int:
    numerics = model.numerics
    if numerics.device != "cpu":
        return int(torch.cuda.mem_get_info(torch.device(numerics.device))[0]) // 2
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGESIZE
    return budget(
        weights=numerics.parameters * model.module.dtype.itemsize,
        free=free_bytes(),
        left=max(0, memory_bytes - resident) if memory_bytes else inf,
    )


def _within(model: LoadedModel, slots: int, kv_bytes: int, bytes_per_token: int) -> LoadedModel:
    """The model with a context that fits: a longer request is refused before it waits."""
    numerics, room = model.numerics, kv_bytes // bytes_per_token
    longest = room
    if numerics.device != "cpu":  # slots are of one length there; half is for earlier prompts
        room //= 2
        longest = room // slots
    context = min(numerics.context, fitting(longest))
    if context < min(numerics.context, LEAST_CONTEXT):
        raise EngineError(
            f"keys and values of {longest} tokens fit into {kv_bytes >> 20} MiB",
            do="raise engine.kv_bytes or engine.memory_bytes, or lower limits.slots",
        )
    if context < numerics.context:
        logger.warning(
            "answers may have %d tokens and not %d: so many fit into %d MiB (engine.kv_bytes)",
            context, numerics.context, kv_bytes >> 20,
        )  # fmt: skip
    return replace(model, numerics=replace(numerics, context=context, room=room))


def _entangled(config: Any) -> str:
    """What makes a row depend on longer ones beside it, or on a mask that attention does not get.

    Only long answers would show it, so that the trial does not.
    """
    ropes = getattr(config, "rope_parameters", None) or {}
    kinds = {str(rope) for rope in (ropes.get("rope_type"), *map(_rope_type, ropes.values()))}
    if any("dynamic" in kind or kind == "longrope" for kind in kinds):
        return "it scales positions by the longest answer of a call"
    other = {*(getattr(config, "layer_types", None) or ())} - {FULL, SLIDING}
    return f"it has layers of {', '.join(sorted(other))}" if other else ""


def _rope_type(parameters: object) -> object:
    """Of the layers of one kind, where each kind has its own."""
    return parameters.get("rope_type") if isinstance(parameters, dict) else None


def _sliding(config: Any) -> int:
    """Layers that look no further back than a window."""
    if kinds := getattr(config, "layer_types", None):
        return sum(kind == SLIDING for kind in kinds)
    return config.num_hidden_layers if getattr(config, "sliding_window", None) else 0


def _expected(model: LoadedModel) -> torch.Tensor:
    """The logits behind the prompt that is tried, as transformers computes them."""
    ids = torch.tensor([_prompt(model, TOKENS)], device=model.module.device)
    with torch.inference_mode(), watching(model.module, model.siblings):
        output = model.module(input_ids=ids, use_cache=False)
    logits: torch.Tensor = output.logits[0, -1].float().cpu()
    return logits


def _differs(model: LoadedModel, engine: BatchingEngine, expected: torch.Tensor) -> str:
    """Give the model our attention; what it does not compute as transformers does, or nothing."""
    module = model.module
    module.set_attn_implementation(NAME)
    distance = _distance(engine, expected)
    config = module.config.get_text_config()
    if engine.cache.windowed != _sliding(config):
        return "its attention is not told how far back it may look"
    if missing := config.num_hidden_layers - engine.cache.layers:
        return f"{missing} of its layers remember in a way of their own"
    far = not distance < (CLOSE if module.dtype == torch.float32 else CLOSE_IN_HALF)
    return f"the logits are {distance:.2g} away from those of transformers" if far else ""


def _distance(engine: BatchingEngine, expected: torch.Tensor) -> float:
    """How far its logits are from those expected, as a part of their length."""
    ids = _prompt(engine, TOKENS)
    seen = torch.from_numpy(_last_logits(engine, ids[:-EMITTED], ids[-EMITTED:]))
    return float((seen - expected).norm() / expected.norm())


def _bits(engine: BatchingEngine) -> tuple[bool, str]:
    """Whether an answer has the same bits among others, and when it goes on from the middle.

    Among others it is read together with them; the one that goes on recalls what was kept.  And a
    hash of its logits: it tells machines apart that compute otherwise for whatever reason.
    """
    ids = _prompt(engine, TOKENS)
    alone, tokens = _answer(engine, ids, (), 0)
    among, _ = _answer(engine, ids, (), min(3, engine.capacity.free_slots - 1))
    on, _ = _answer(engine, ids, tuple(tokens[:EMITTED]), 0)
    exact = among == alone and on == alone[EMITTED:]
    return exact, hashlib.blake2b(b"".join(alone), digest_size=8).hexdigest()


def _answer(
    engine: BatchingEngine, ids: tuple[int, ...], emitted: tuple[int, ...], strangers: int
) -> tuple[list[bytes], list[int]]:
    """The logits and tokens of one answer, written among strangers of other lengths."""
    seen: list[bytes] = []
    tokens = [*emitted]

    def note(job: int, position: int, logits: Logits) -> None:
        if job == 0:
            seen.append(logits.tobytes())

    engine.on_logits = note
    for number in range(1, strangers + 1):
        prompt = _prompt(engine, number * 5 + 1)
        engine.start(Job(number, prompt, (), Sampling(), ANSWER + number, frozenset()))
    owner = bytes([strangers])  # with strangers it is read again
    engine.start(Job(0, ids, emitted, Sampling(), ANSWER - len(emitted), frozenset(), owner=owner))
    while engine.capacity.running:
        for event in engine.step():
            if event.id == 0:
                tokens += event.ids
    engine.on_logits = unheard
    return seen, tokens


def _last_logits(
    engine: BatchingEngine, prompt: tuple[int, ...], emitted: tuple[int, ...]
) -> Logits:
    seen: list[Logits] = []
    engine.on_logits = lambda _job, _position, logits: seen.append(logits)
    engine.start(Job(0, prompt, emitted, Sampling(), 1, frozenset()))
    while engine.capacity.running:
        engine.step()
    return seen[0]


def _prompt(model: LoadedModel | BatchingEngine, length: int) -> tuple[int, ...]:
    numerics = model.numerics
    return tuple(
        (7 * i + length) % numerics.vocabulary for i in range(min(length, numerics.context // 2))
    )
