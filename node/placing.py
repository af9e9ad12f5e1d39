"""Spreads models over the GPUs of this machine, where there are several and nobody chose."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace

from r3mes.actors.inference.choice import OPENVINO
from r3mes.actors.inference.library import Library
from r3mes.actors.inference.memory import has_gpu, needed_bytes
from r3mes.actors.inference.placement import AUTO, Wish, place
from r3mes.actors.inference.settings import ModelSettings
from r3mes.actors.inference.source import find_model
from r3mes.config.schema import Config
from r3mes.errors import EngineError
from r3mes.node.models import model_settings

logger = logging.getLogger(__name__)

ASK = ("nvidia-smi", "--query-gpu=index,memory.free", "--format=csv,noheader,nounits")
ASK_S = 10.0
CHOSEN = "CUDA_VISIBLE_DEVICES"


def placed_settings(config: Config, free: Mapping[str, int] | None = None) -> list[ModelSettings]:
    """What the engine is told of each model, with the device that it gets.

    Args:
        config: with the models.
        free: bytes by device; asked of the driver if None.
    """
    every = [model_settings(model, config) for model in config.models]
    found = free_gpus() if free is None else free
    if len(found) < 2:
        return every
    own = [one for one in every if one.upstream is None and one.engine != OPENVINO]
    wishes = [Wish(one.name, one.device, _needed(one)) for one in own]
    devices = place(wishes, found)
    logger.info("placed on %d GPUs: %s", len(found), devices)
    return [replace(one, device=devices.get(one.name, one.device)) for one in every]


def free_gpus() -> dict[str, int]:
    """Free memory of each GPU by its device; empty if there is none, or somebody chose some.

    Workers number GPUs as the driver does (`r3mes.actors.inference.process`).
    """
    if not has_gpu() or CHOSEN in os.environ:
        return {}
    try:
        ran = subprocess.run(ASK, capture_output=True, check=True, timeout=ASK_S, text=True)  # noqa: S603
        return parsed(ran.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        logger.info("the driver does not tell what is free on the GPUs: %s", error)
        return {}


def parsed(told: str) -> dict[str, int]:
    """The driver's lines ``index, free MiB``."""
    pairs = (line.split(",") for line in told.splitlines() if line.strip())
    return {f"cuda:{int(index)}": int(free) << 20 for index, free in pairs}


def _needed(settings: ModelSettings) -> int:
    """What the weights take; nothing is known of what is not here yet."""
    if settings.device != AUTO and not settings.device.startswith("cuda"):
        return 0
    library = Library(settings.library) if settings.library else None
    try:
        return needed_bytes(find_model(settings.source, settings.revision, library), settings.dtype)
    except EngineError:
        return 0
