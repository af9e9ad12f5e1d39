"""A support bundle: what helps somebody else to find out what is wrong, and no secret.

Everything in it goes through the same mask as the log.  The files are kept in the data directory,
readable by its owner alone, and are for the operator to send: nothing leaves the machine by itself.
"""

from __future__ import annotations

import io
import os
import platform
import sys
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path

import msgspec

from r3mes.errors import StoreError
from r3mes.node.logs.masking import masked
from r3mes.node.logs.ring import Line

FOLDER = "bundles"
KEPT = 5
"""Bundles that are kept; older ones make room."""


def versions() -> dict[str, object]:
    """Of Python, the system and every library."""
    found = {one.metadata["Name"]: one.version for one in distributions()}
    return {
        "python": sys.version,
        "system": platform.platform(),
        "libraries": dict(sorted(found.items(), key=lambda item: item[0].lower())),
    }


def log_text(lines: Sequence[Line]) -> str:
    """The lines as people read them."""
    return "".join(
        f"{_time(line.at_ms)} {line.level} {line.logger}: {line.message}\n"
        + (f"{line.trace}\n" if line.trace else "")
        for line in lines
    )


def write_bundle(datadir: Path, parts: Mapping[str, object]) -> Path:
    """Write ``parts`` into a new archive: texts as they are, everything else as JSON.

    Raises:
        StoreError: it cannot be written.
    """
    folder = datadir / FOLDER
    path = folder / f"r3mes-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.zip"
    data = _packed(parts)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        for old in sorted(folder.glob("r3mes-*.zip"))[:-KEPT]:
            old.unlink()
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise StoreError(f"{path} cannot be written: {error.strerror}") from None
    return path


def _packed(parts: Mapping[str, object]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, part in parts.items():
            file.writestr(name, masked(part) if isinstance(part, str) else _json(part))
    return archive.getvalue()


def _json(part: object) -> bytes:
    plain = _masked(msgspec.to_builtins(part, enc_hook=str))
    return msgspec.json.format(msgspec.json.encode(plain))


def _masked(part: object) -> object:
    """Text by text, so that what comes out is still JSON."""
    match part:
        case str():
            return masked(part)
        case dict():
            return {key: _masked(value) for key, value in part.items()}
        case list() | tuple():
            return [_masked(value) for value in part]
        case _:
            return part


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
