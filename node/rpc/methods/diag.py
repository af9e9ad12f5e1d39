"""What helps to find out what is wrong: the last lines of the log, and the doctor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import trio
from pydantic import Field

from r3mes.node.doctor.checks import run_checks
from r3mes.node.doctor.finding import Finding, Subject
from r3mes.node.logs.ring import LINES, Ring
from r3mes.node.rpc.method import method

Lines = Annotated[int, Field(ge=1, le=LINES)]
Number = Annotated[int, Field(ge=0)]
Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log, with secrets masked.

    Args:
        number: counts all lines since the start from 1.
        at_ms: unix milliseconds.
        trace: the traceback; empty if there is none.
        trace_id: of the request that it belongs to, if that is traced; else empty.
    """

    number: int
    at_ms: int
    level: str
    logger: str
    message: str
    trace: str
    trace_id: str


class DiagMethods:
    """The namespace ``diag``.

    Args:
        ring: keeps the last lines of the log.
        subject: what the doctor examines: this node, as it runs.
    """

    def __init__(self, ring: Ring, subject: Callable[[], Subject]) -> None:
        self._ring, self._subject = ring, subject
        self._one_doctor = trio.Lock()

    @method("diag_logs", scope="a")
    async def logs(
        self, lines: Lines = 200, level: Level = "debug", after: Number = 0
    ) -> list[LogLine]:
        """The newest lines of the log that are as severe as `level`, oldest first.

        `after` is the number of the last line that the caller has.
        """
        wanted = LEVELS[LEVELS.index(level) :]
        found = [line for line in self._ring.after(after) if line.level in wanted]
        return [
            LogLine(
                one.number,
                one.at_ms,
                one.level,
                one.logger,
                one.message,
                one.trace,
                one.trace_id,
            )
            for one in found[-lines:]
        ]

    @method("diag_doctor", scope="a")
    async def doctor(self) -> list[Finding]:
        """Try out what the node needs, as `r3mes doctor` does; takes seconds, one at a time.

        Models that are loaded are left alone: `model_ps` tells of them.
        """
        async with self._one_doctor:
            return [finding async for finding in run_checks(self._subject())]
