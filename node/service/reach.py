"""What a service would not see: it has no homes, a /tmp of its own, and is nobody's friend."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import r3mes
from r3mes.config.schema import Config

HIDDEN = {
    Path("/home"): "ProtectHome=yes",
    Path("/root"): "ProtectHome=yes",
    Path("/run/user"): "ProtectHome=yes",
    Path("/tmp"): "PrivateTmp=yes",  # noqa: S108  not used, but refused
    Path("/var/tmp"): "PrivateTmp=yes",  # noqa: S108
}
"""Folders that are empty for the service, and the line in its unit that makes them so."""
REINSTALL = (
    "sudo env UV_TOOL_DIR=/opt/r3mes UV_TOOL_BIN_DIR=/usr/local/bin "
    "UV_PYTHON_INSTALL_DIR=/opt/r3mes/python "
    "uv tool install --compile-bytecode --torch-backend auto --overrides override.txt ."
)
"""From the folder of the source, as the README installs it."""


@dataclass(frozen=True, slots=True)
class Program:
    """This program as a service would start it.

    Args:
        executable: what ``ExecStart`` is to name.
        parts: files and folders that must be seen for it to run.
    """

    executable: Path
    parts: tuple[Path, ...]

    @classmethod
    def running(cls) -> Program:
        """The one that runs now."""
        called = Path(sys.argv[0])
        executable = called if called.name == "r3mes" else Path(sys.executable).with_name("r3mes")
        package = Path(r3mes.__file__).resolve().parent
        parts = (executable.resolve(), Path(sys.prefix), Path(sys.executable).resolve(), package)
        return cls(executable.absolute(), parts)


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Something that the service would not see, and the command that mends it."""

    what: str
    why: str
    do: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}\n  -> {self.do}"


def of_program(program: Program) -> Iterator[Unreachable]:
    """The first part of the program that the service would not see; the others follow it."""
    parts = (program.executable, *program.parts)
    for part in parts:
        if (folder := hidden(part)) is not None:
            yield Unreachable(f"the program, {part}", _is_hidden(folder), REINSTALL)
            return
    for part in parts:
        if (folder := closed(part)) is not None:
            yield Unreachable(f"the program, {part}", _is_closed(folder), _open(folder))
            return


def of_config(config: Config, file: Path) -> Iterator[Unreachable]:
    """What the configuration in ``file`` names and the service would not see."""
    for model in config.models:
        source = Path(model.id).expanduser()
        if not source.is_absolute():
            continue
        if (folder := hidden(source)) is not None:
            do = (
                f"sudo mkdir -p /srv/models && sudo cp -rL {shlex.quote(str(source))} /srv/models/"
                f'   then write id = "/srv/models/{source.name}" in {file}'
            )
            yield Unreachable(f"the model {model.id}", _is_hidden(folder), do)
        elif (folder := closed(source)) is not None:
            yield Unreachable(f"the model {model.id}", _is_closed(folder), _open(folder))
    path = config.wallet.passphrase_file
    if path is not None and (folder := hidden(path)) is not None:
        do = f"sudo r3mes --config {file} config unset wallet.passphrase_file"
        yield Unreachable(f"the passphrase in {path}", _is_hidden(folder), do)


def hidden(path: Path) -> Path | None:
    """The folder of `HIDDEN` that ``path`` is in, by itself or behind a link."""
    for one in (path.absolute(), path.resolve()):
        for folder in HIDDEN:
            if one.is_relative_to(folder):
                return folder
    return None


def closed(path: Path) -> Path | None:
    """The first folder on the way to ``path``, or itself, that another user may not look into."""
    whole = path.resolve()
    for one in (*reversed(whole.parents), whole):
        if not one.exists():
            return None
        wanted = 0o004 if one.is_file() else 0o005 if one == whole else 0o001
        if one.stat().st_mode & wanted != wanted:
            return one
    return None


def _is_hidden(folder: Path) -> str:
    return f"a service sees nothing in {folder} ({HIDDEN[folder]})"


def _is_closed(folder: Path) -> str:
    return f"{folder} is closed to other users"


def _open(folder: Path) -> str:
    return f"sudo chmod o+rx {shlex.quote(str(folder))}"
