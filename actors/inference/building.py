"""Having code built for this machine, in the background; as the daemon sees it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from r3mes.actors.inference.process import open_worker
from r3mes.actors.inference.protocol import Build, Built
from r3mes.errors import EngineCrashed

logger = logging.getLogger(__name__)

BUILDER = (sys.executable, "-P", "-m", "r3mes.actors.inference.native.builder")
PATIENCE_S = 3600.0
"""Seven billion parameters took minutes; a compiler that hangs must not stay for ever."""


async def build(
    model: Path, programs: Path, command: Sequence[str] = BUILDER, *, scaled: bool
) -> str:
    """Build what is missing for the model in a directory; why not, empty if it is there now."""
    began = trio.current_time()
    why = f"nothing was built in {PATIENCE_S:g} s"
    try:
        with trio.move_on_after(PATIENCE_S):
            async with open_worker(command, os.environ) as builder:
                await builder.send(Build(str(model), str(programs), scaled))
                report = await builder.receive()
                why = report.why if isinstance(report, Built) else "the builder said nonsense"
    except* (EngineCrashed, OSError) as group:
        why = str(group.exceptions[0])
    took = trio.current_time() - began
    if why:
        logger.warning("%s is written without compiled code: %s", model.name, why)
    else:
        logger.info("%s: code for this machine was built in %.0f s", model.name, took)
    return why
