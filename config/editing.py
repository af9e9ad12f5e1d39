"""Changes one value in the text of a configuration file; comments and order stay as they are."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Whitespace

from r3mes.errors import ConfigError, StoreFull

GONE = "-gone-"
"""No name begins so: it stands for a table that is taken out, so that what is around it stays."""


def with_value(text: str, key: str, value: object) -> str:
    """``text`` with ``key`` set to ``value``, or without it if that is None.

    Args:
        key: dotted, such as ``log.level``.
        text: of the file; what comes out is not checked against the schema.
        value: what TOML knows.

    Raises:
        ConfigError: the text is not TOML, or has no such section where there is one to be.
    """
    section, _, name = key.partition(".")
    try:
        document = tomlkit.parse(text)
        table = document.setdefault(section, tomlkit.table())
        if value is None:
            table.pop(name, None)
        else:
            table[name] = value
        return tomlkit.dumps(document)
    except (TOMLKitError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key} cannot be set in this file: {error}") from None


def with_model(text: str, values: Mapping[str, str]) -> str:
    """``text`` with one more table in ``[[models]]``.

    Raises:
        ConfigError: the text is not TOML, or its models are not tables of their own.
    """
    try:
        document = tomlkit.parse(text)
        models = document.setdefault("models", tomlkit.aot())
        table = tomlkit.table()
        table.update(values)
        table.add(tomlkit.nl())
        models.append(table)
        return tomlkit.dumps(document)
    except (TOMLKitError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"the models in this file cannot be added to: {error}") from None


def with_table(text: str, section: str, name: str, values: Mapping[str, object] | None) -> str:
    """``text`` with the table called ``name`` in ``[[section]]`` made of ``values``, or without it.

    Args:
        text: of the file; what comes out is not checked against the schema.
        section: of tables with a ``name``.
        name: of one; it takes the place of one that is there, else comes last.
        values: None takes it out.

    Raises:
        ConfigError: the text is not TOML, or the section is something else.
    """
    try:
        document = tomlkit.parse(text)
        tables = document.setdefault(section, tomlkit.aot())
        if not isinstance(tables, AoT):
            raise TypeError("it is not made of tables of its own")  # noqa: TRY301
        there = [at for at, one in enumerate(tables) if one["name"] == name]
        if values is None and not there:
            return text
        at = there[0] if there else len(tables)
        behind = _take_end(tables[min(at, len(tables) - 1)]) if tables else ""
        new = tomlkit.table()
        new.update(values or {"name": GONE})
        new.value.body.append((None, Whitespace(behind)))
        if there:
            del tables[at]
        elif tables:
            tables[-1].add(tomlkit.nl())
        tables.insert(at, new)
        return tomlkit.dumps(document).replace(f'[[{section}]]\nname = "{GONE}"\n', "", 1)
    except (TOMLKitError, TypeError, AttributeError, ValueError, LookupError) as error:
        raise ConfigError(f"[[{section}]] cannot be changed in this file: {error}") from None


def _take_end(table: Any) -> str:
    """Blank lines and comments behind the last value: they are about what follows the table."""
    body, taken = table.value.body, ""
    while body and body[-1][0] is None:
        taken = body.pop()[1].as_string() + taken
    return taken


def replace_file(path: Path, text: str) -> None:
    """Put ``text`` in the place of the file, whole or not at all; its mode stays.

    Raises:
        StoreFull: there is no room for it.
        ConfigError: it cannot be written.
    """
    target = path.resolve()
    draft = target.with_name(f"{target.name}.new")
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        draft.unlink(missing_ok=True)
        fd = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise StoreFull(f"no space is left for {target}") from None
        do = "let this user write there; nothing was changed"
        raise ConfigError(f"{target} cannot be written: {error.strerror}", do=do) from None
