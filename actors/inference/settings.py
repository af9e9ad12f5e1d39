"""What the operator decides about one model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from r3mes.ids import ModelHash


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """One LoRA adapter of a model.

    Args:
        name: behind the model's name and a colon, as in ``base:name``.
        source: a directory, or a Hugging Face hub id.
        revision: of a hub id; a commit, branch or tag.
        hash: that its files must have; None for any.
    """

    name: str
    source: str
    revision: str = "main"
    hash: ModelHash | None = None


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """A server that runs the model.

    Args:
        url: of its OpenAI-compatible part, mostly ending in ``/v1``; without a slash at the end.
        model: what the model is called there.
        tokenizer: directory with the model's tokenizer and chat template.
        key_file: with the key that it wants, if it wants one.
    """

    url: str
    model: str
    tokenizer: Path
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """One entry of ``[[models]]`` with the limits of its engine.

    Args:
        name: under which it is served.
        source: ``builtin``, a directory, or a Hugging Face hub id.
        revision: of a hub id; a commit, branch or tag.
        library: folder of the models that were pulled, see `r3mes.actors.inference.library`.
        engine: ``auto``, ``torch``, ``openvino`` or ``upstream``.
        upstream: the server that runs it; None for a worker of our own.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; one that is missing is an error.
        dtype: ``auto`` for what the model was stored in.
        max_context: upper bound on prompt and answer together; None for the model's own.
        memory_bytes: the worker is ended when it occupies more (GPU memory and mapped files do
            not count); None for no cap.
        kv_bytes: most memory of keys and values; None for about what the model itself takes.
        slots: answers written at the same time.
        queue: requests that may wait.
        threads: of the CPU; None for one with small models and torch's choice with others.
        adapters: that are offered with it from the start.
        adapter_places: adapters that are in memory at the same time.
        programs: directory of code made for this machine; None to neither make nor use any.
        weights: ``stored``, or ``int8``: bytes with a scale for each output of a layer.
        cache: directory for what engines make of a model; None to make it anew each time.
        idle_s: seconds after which it rests if nobody asks; None for never.
        pinned: it never rests.
        build_after_s: seconds after a start before code for this machine is built: who wants one
            answer gets it in peace.
        exchange_within_s: seconds that a worker with better code waits for a moment without
            answers, before nothing new begins until there is one.
        load_timeout: seconds to load before the worker counts as stuck.
        silence_timeout: seconds without a sign of life before a loaded one does.
        frozen_timeout: the same for one that does not use the processor either.
    """

    name: str
    source: str
    revision: str = "main"
    library: Path | None = None
    engine: str = "auto"
    upstream: UpstreamSettings | None = None
    device: str = "auto"
    dtype: str = "auto"
    max_context: int | None = None
    memory_bytes: int | None = None
    kv_bytes: int | None = None
    slots: int = 1
    queue: int = 16
    threads: int | None = None
    adapters: tuple[AdapterSettings, ...] = ()
    adapter_places: int = 8
    programs: Path | None = None
    weights: str = "stored"
    cache: Path | None = None
    idle_s: float | None = None
    pinned: bool = False
    build_after_s: float = 30.0
    exchange_within_s: float = 60.0
    load_timeout: float = 600.0
    silence_timeout: float = 30.0
    frozen_timeout: float = 10.0
