"""What a check is given, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from r3mes.config.schema import Config
from r3mes.errors import ConfigError, R3mesError
from r3mes.node.running import Running

Verdict = Literal["ok", "info", "warn", "fail"]
"""``info`` tells what is so and asks for nothing; with ``fail`` a node cannot work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The one result of a check.

    Args:
        do: what to do about it; empty if nothing.
    """

    name: str
    verdict: Verdict
    what: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """The node that is examined, whether or not it runs.

    Args:
        config: in force; the defaults if the file is wrong.
        file: where the configuration is, or would be.
        wrong: what is wrong with the configuration.
        running: the node that runs on the data directory.
    """

    config: Config
    file: Path
    wrong: ConfigError | None = None
    running: Running | None = None

    @property
    def datadir(self) -> Path:
        return self.config.node.datadir


def failed(name: str, error: R3mesError) -> Finding:
    """The finding for something that was refused, with the advice of its error."""
    return Finding(name, "fail", error.detail, error.do)
