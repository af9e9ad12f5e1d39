"""Steps that change a machine: each can say what it would do, and do it."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Protocol

from r3mes.config.editing import replace_file
from r3mes.errors import ServiceError


class Step(Protocol):
    """One change."""

    def would(self) -> str:
        """What it would do, in full."""
        ...

    def do(self) -> str:
        """Do it; what was done."""
        ...


@dataclass(frozen=True, slots=True)
class Put:
    """Have the file ``path`` hold ``text``, readable for everybody: nothing in it is secret."""

    path: Path
    text: str

    def would(self) -> str:
        if self._is_there():
            return f"keep {self.path}: it is as it should be"
        return f"write {self.path} (0644):\n{indent(self.text, '    ')}".rstrip()

    def do(self) -> str:
        if self._is_there():
            return f"Kept     {self.path}"
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(self.path, self.text)
        self.path.chmod(0o644)
        return f"Wrote    {self.path}"

    def _is_there(self) -> bool:
        return self.path.is_file() and self.path.read_text() == self.text


@dataclass(frozen=True, slots=True)
class Remove:
    """Have no file ``path``."""

    path: Path

    def would(self) -> str:
        return f"remove {self.path}"

    def do(self) -> str:
        self.path.unlink()
        return f"Removed  {self.path}"


@dataclass(frozen=True, slots=True)
class SetAside:
    """Rename ``path``, so that it is not used by mistake and can still be had back."""

    path: Path

    @property
    def aside(self) -> Path:
        """Where it is then."""
        return self.path.with_name(f"{self.path.name}.moved")

    def would(self) -> str:
        return f"rename {self.path} to {self.aside}"

    def do(self) -> str:
        try:
            self.path.rename(self.aside)
        except OSError as error:
            raise ServiceError(
                f"{self.path} cannot become {self.aside}: {error.strerror}"
            ) from None
        return f"Renamed  {self.path} to {self.aside}"


@dataclass(frozen=True, slots=True)
class Run:
    """Run a command, which must succeed."""

    command: Sequence[str]

    def would(self) -> str:
        return f"run {shlex.join(self.command)}"

    def do(self) -> str:
        run(self.command)
        return f"Ran      {shlex.join(self.command)}"


def run(command: Sequence[str], secret: str = "") -> str:
    """What the command says, given ``secret`` on its stdin.

    Raises:
        ServiceError: it is not there, or fails.
    """
    try:
        ran = subprocess.run(  # noqa: S603  a list of words, no shell
            list(command), input=secret, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ServiceError(
            f"there is no {command[0]} on this machine", do=f"install the package with {command[0]}"
        ) from None
    if ran.returncode:
        why = next(iter((ran.stderr or ran.stdout).strip().splitlines()), "").rstrip(".")
        raise ServiceError(
            f"`{shlex.join(command)}` ended with {ran.returncode}" + (f": {why}" if why else ""),
            do="read `journalctl -u r3mes -n 50`" if command[0] == "systemctl" else None,
        )
    return ran.stdout
