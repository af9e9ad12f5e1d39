"""Opens a model for the OpenVINO engine, in the worker; exports it first where that is needed."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from r3mes.actors.inference.choice import EXPORT
from r3mes.actors.inference.engine import Engine, Numerics
from r3mes.actors.inference.files import read_json
from r3mes.actors.inference.loaded import loaded_as
from r3mes.actors.inference.openvino.engine import OpenVinoEngine
from r3mes.actors.inference.openvino.program import Program
from r3mes.actors.inference.protocol import Load, Loaded
from r3mes.actors.inference.text_parts import read_text_parts, stop_ids
from r3mes.errors import EngineError, ModelInvalid

logger = logging.getLogger(__name__)

EXPORTER = (sys.executable, "-P", "-W", "ignore", "-m", "r3mes.actors.inference.openvino.export")
FALLBACK_CONTEXT = 4096
PRECISIONS = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
NAMES = {short: name for name, short in PRECISIONS.items()}
SLOW_TO_HALF = ("bfloat16", "float16")
"""Weights stored so are computed in bf16; others in f32."""


def open_openvino(load: Load) -> tuple[Engine, Loaded]:
    """The engine on OpenVINO for the model in ``load.path``.

    Raises:
        ModelMissing, ModelInvalid: it cannot be read, exported or run.
        EngineError: there is no memory for it.
    """
    directory = Path(load.path)
    text, config = read_text_parts(directory), read_json(directory / "config.json")
    described = config.get("text_config") or config
    own = described.get("max_position_embeddings") or FALLBACK_CONTEXT
    context = min(own, load.max_context or own)
    program = _program(directory, load, context, _precision(load.dtype, config))
    dtype = NAMES.get(program.precision, program.precision)
    numerics = Numerics(
        architecture=str((config.get("architectures") or ["unknown"])[0]),
        parameters=program.parameters,
        dtype=dtype,
        device="cpu",
        context=context,
        vocabulary=program.vocabulary,
        numeric_class=f"openvino {version('openvino')}, cpu, {dtype}, inexact",
        stop_ids=stop_ids(directory),
    )
    loaded = loaded_as(directory, numerics, text, slots=load.slots)
    return OpenVinoEngine(program, numerics, slots=load.slots), loaded


def _precision(wish: str, config: Mapping[str, Any]) -> str:
    if wish in PRECISIONS:
        return PRECISIONS[wish]
    stored = config.get("dtype") or config.get("torch_dtype")
    return "bf16" if stored in SLOW_TO_HALF else "f32"


def _program(directory: Path, load: Load, context: int, precision: str) -> Program:
    """The program of the export in the model's directory, or of our own in the cache."""

    def opened(file: Path) -> Program:
        return Program(
            file, slots=load.slots, context=context, precision=precision, threads=load.threads
        )

    if (own := directory / EXPORT).is_file():
        return opened(own)
    place = Path(load.cache or tempfile.gettempdir())
    if (kept := place / EXPORT).is_file():
        try:
            return opened(kept)
        except ModelInvalid as error:
            logger.warning("the export that was kept is made anew: %s", error.detail)
    export(directory, place)
    return opened(kept)


def export(directory: Path, place: Path) -> None:
    """Have the model exported into ``place`` by a process that is confined as this one is.

    Raises:
        EngineError: torch, which reads the model for it, is not installed.
        ModelInvalid: it cannot be exported.
    """
    command = [*EXPORTER, str(directory), str(place)]
    ran = subprocess.run(command, capture_output=True, check=False)  # noqa: S603  our own module
    if ran.returncode == 0:
        return
    lines = ran.stderr.decode(errors="replace").strip().splitlines()
    why = lines[-1] if lines else f"the exporter ended with status {ran.returncode}"
    do = 'set engine = "torch", or export it by optimum-intel: docs/engines.md'
    if "No module named" in why:
        raise EngineError(f"the model cannot be exported for OpenVINO without torch: {why}", do=do)
    raise ModelInvalid(f"the model cannot be exported for OpenVINO: {why}", do=do)
