"""Where values come from: the file, the environment, flags. Each knows how to name its place."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from r3mes.config.keys import TABLES, keys_of, sections
from r3mes.errors import ConfigError

PREFIX = "R3MES_"
FLAGS = {
    "node.datadir": "--datadir",
    "api.listen": "--listen",
    "p2p.listen": "--p2p-listen",
    "p2p.bootstrap": "--bootstrap",
    "models": "--model",
    "log.level": "--log-level",
}
"""Flags that have a name of their own; `--set KEY=VALUE` does for the rest."""
MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Setting:
    """One value as it was found.

    Args:
        key: dotted; ``models`` and the like for the whole list.
        origin: ``file PATH:LINE``, ``env NAME`` or ``flag --NAME``.
    """

    key: str
    value: object
    origin: str


def from_file(path: Path) -> Iterator[Setting]:
    """What stands in the TOML file.

    Raises:
        ConfigError: it cannot be read or parsed, or has a key that does not exist.
    """
    yield from from_text(_read(path), path)


def from_text(text: str, path: Path) -> Iterator[Setting]:
    """What stands in ``text``, as the file at ``path`` would hold it.

    Raises:
        ConfigError: it cannot be parsed, or has a key that does not exist.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not TOML: it is nested too deeply") from None
    for section, table in tables.items():
        origin = f"file {path}:{_line(text, section, '')}"
        known_section(section, origin)
        if section in TABLES:
            yield Setting(section, table, origin)
            continue
        if not isinstance(table, dict):
            raise ConfigError(f"{origin}: {section} is a section: write [{section}]")
        for name, value in table.items():
            origin = f"file {path}:{_line(text, section, name)}"
            yield Setting(known_key(section, name, origin), value, origin)


def from_env(env: Mapping[str, str]) -> Iterator[Setting]:
    """What the variables of the form ``R3MES_SECTION__KEY`` say.

    Raises:
        ConfigError: one names a key that does not exist, or nearly one that does.
    """
    for variable in sorted(env):
        if not variable.startswith(PREFIX):
            continue
        if "__" not in variable:
            _nearly_a_key(variable)
            continue
        section, _, name = variable.removeprefix(PREFIX).lower().partition("__")
        origin = f"env {variable}"
        known_section(section, origin)
        if section in TABLES:
            raise ConfigError(f"{origin}: {section} can only be set in the file")
        key = known_key(section, name, origin)
        yield Setting(key, keys_of(sections()[section], section)[name].parse(env[variable]), origin)


def _nearly_a_key(variable: str) -> None:
    """Refuse ``R3MES_API_LISTEN``, which would be passed over in silence.

    What is like no key is let pass: Kubernetes sets ``R3MES_SERVICE_HOST`` and ``R3MES_API_PORT``
    for services of these names.
    """
    known = {
        f"{section}_{name}": f"{PREFIX}{section}__{name}".upper()
        for section, layer in sections().items()
        for name in keys_of(layer, section)
        if section not in TABLES
    }
    word = variable.removeprefix(PREFIX).lower()
    if close := get_close_matches(word, known, n=1, cutoff=0.85):
        raise ConfigError(f"env {variable} sets nothing (did you mean {known[close[0]]}?)")


def from_flags(flags: Mapping[str, object]) -> Iterator[Setting]:
    """What the command line says, by dotted key; None stands for a flag that was not given.

    Raises:
        ConfigError: there is no such key.
    """
    for key, value in flags.items():
        if value is None:
            continue
        section, _, name = key.partition(".")
        origin = f"flag {FLAGS.get(key, f'--set {key}')}"
        known_section(section, origin)
        if key not in TABLES:
            known_key(section, name, origin)
            if isinstance(value, str):
                value = keys_of(sections()[section], section)[name].parse(value)
        yield Setting(key, value, origin)


def flag_settings(words: Sequence[str]) -> dict[str, str]:
    """The values of ``--set KEY=VALUE`` by key.

    Raises:
        ConfigError: a word is not of that form.
    """
    pairs = [word.partition("=") for word in words]
    for key, equals, _ in pairs:
        if not equals:
            raise ConfigError(f"--set {key} is not of the form KEY=VALUE")
    return {key: value for key, _, value in pairs}


def known_section(section: str, origin: str) -> None:
    """See that there is such a section.

    Raises:
        ConfigError: there is none; suggests one that is like it.
    """
    if section not in sections():
        raise ConfigError(f"{origin}: there is no section {section!r}{_meant(section, sections())}")


def known_key(section: str, name: str, origin: str) -> str:
    """The dotted key.

    Raises:
        ConfigError: the section has no such key; suggests one that is like it.
    """
    keys = keys_of(sections()[section], section)
    if name not in keys:
        elsewhere = [other for other, layer in sections().items() if name in keys_of(layer, other)]
        hint = _meant(name, keys) or (f" ({elsewhere[0]}.{name} exists)" if elsewhere else "")
        raise ConfigError(f"{origin}: there is no key {section}.{name}{hint}")
    return f"{section}.{name}"


def _meant(word: str, known: Mapping[str, object]) -> str:
    close = get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        return data.decode()
    except PermissionError:
        do = "run this as the user of the node, or let this user read the file"
        raise ConfigError(f"{path} cannot be read by this user", do=do) from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None


def _line(text: str, section: str, name: str) -> int:
    """The line where the section, or its key ``name``, stands; tomllib does not tell."""
    assignment = re.compile(rf"\s*[\"']?{re.escape(name)}[\"']?\s*=") if name else None
    inside, found = False, 1
    for number, line in enumerate(text.splitlines(), 1):
        if head := re.match(r"\s*\[\[?\s*([\w.-]+)", line):
            inside = head[1] == section
            if inside and not name:
                return number
            found = number if inside else found
        elif inside and assignment and assignment.match(line):
            return number
    return found
