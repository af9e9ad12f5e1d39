"""Which engine a model gets, and why; decided by the daemon, which imports none of them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from r3mes.actors.inference.files import EXPORT as EXPORT_FILES
from r3mes.actors.inference.files import WEIGHTS
from r3mes.actors.inference.settings import ModelSettings

TORCH, OPENVINO, UPSTREAM, NONE = "torch", "openvino", "upstream", "none"
NEEDS = {TORCH: ("torch", "transformers"), OPENVINO: ("openvino",)}
"""What must be importable in the worker."""
EXPORT = EXPORT_FILES[0]


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine, ``none`` if there is none that could run the model.

    Args:
        reason: a part of a sentence: ``torch, because …``.
    """

    engine: str
    reason: str


def choose(settings: ModelSettings, directory: Path) -> Choice:
    """The engine for the model in ``directory``."""
    wish = settings.engine
    if wish != "auto":
        return _wished(wish, settings.device)
    exported = (directory / EXPORT).is_file()
    if exported and not any(directory.glob(WEIGHTS)):
        found = "the directory holds an OpenVINO export and no safetensors"
        return _on_cpu(settings.device, found)
    if not (missing := missing_for(TORCH)):
        return Choice(TORCH, "it keeps the bits of an answer, on the CPU and on CUDA")
    if exported and not missing_for(OPENVINO):
        return _on_cpu(settings.device, f"{missing}, and the directory holds an OpenVINO export")
    return Choice(NONE, missing)


def missing_for(engine: str) -> str:
    """What an engine lacks in this environment; empty if nothing."""
    lacking = [name for name in NEEDS[engine] if find_spec(name) is None]
    return f"{lacking[0]} is not installed" if lacking else ""


def _wished(wish: str, device: str) -> Choice:
    reason = f'the configuration says engine = "{wish}"'
    return _on_cpu(device, reason) if wish == OPENVINO else _if_here(wish, reason)


def _on_cpu(device: str, reason: str) -> Choice:
    """OpenVINO, unless a GPU is asked for, which would silently not be used."""
    if device.startswith("cuda"):
        return Choice(NONE, f"openvino runs on the CPU and {device} is asked for, and {reason}")
    return _if_here(OPENVINO, reason)


def _if_here(engine: str, reason: str) -> Choice:
    missing = missing_for(engine)
    return Choice(NONE, f"{missing}, and {reason}") if missing else Choice(engine, reason)
