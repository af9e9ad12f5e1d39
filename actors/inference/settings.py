"""What the operator decides about one model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """One entry of ``[[models]]`` with the limits of its engine.

    Args:
        name: under which it is served.
        source: ``builtin``, a directory, or a Hugging Face hub id.
        revision: of a hub id; a commit, branch or tag.
        engine: ``auto``, ``torch``, ``openvino`` or ``upstream``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; one that is missing is an error.
        dtype: ``auto`` for what the model was stored in.
        max_context: upper bound on prompt and answer together; None for the model's own.
        memory_bytes: the worker is ended when it occupies more (GPU memory and mapped files do
            not count); None for no cap.
        slots: answers written at the same time.
        queue: requests that may wait.
        threads: of the CPU; None for one with small models and torch's choice with others.
        load_timeout: seconds to load before the worker counts as stuck.
        silence_timeout: seconds without a sign of life before a loaded one does.
        frozen_timeout: the same for one that does not use the processor either.
    """

    name: str
    source: str
    revision: str = "main"
    engine: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    max_context: int | None = None
    memory_bytes: int | None = None
    slots: int = 1
    queue: int = 16
    threads: int | None = None
    load_timeout: float = 600.0
    silence_timeout: float = 30.0
    frozen_timeout: float = 10.0
