"""What the schema says about each key, for checking values, for messages and for documentation."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from r3mes.config.schema import Adapter, Config, Layer, Model, Route

TABLES: dict[str, type[Layer]] = {"models": Model, "adapters": Adapter, "routes": Route}
"""Sections of which there may be many: ``[[models]]``."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section.

    Args:
        name: dotted, such as ``api.listen``; ``models.id`` for the tables of ``[[models]]``.
        type: its annotation, bounds included.
        expects: what a right value looks like.
    """

    name: str
    type: Any
    description: str
    expects: str
    secret_file: bool
    default: object
    required: bool

    def check(self, value: object) -> object:
        """``value`` in the key's type.

        Raises:
            ValueError: it is not of the type or out of bounds; the text says what is expected.
        """
        try:
            return msgspec.convert(value, self.type, dec_hook=_path)
        except msgspec.ValidationError:
            raise ValueError(self.expects) from None

    def parse(self, text: str) -> object:
        """The value that ``text`` stands for in an environment variable or flag, unchecked."""
        plain = _plain(self.type)
        if plain in (str, Path) or get_origin(plain) is Literal:
            return text
        if get_origin(plain) is tuple and not text.lstrip().startswith("["):
            return [part.strip() for part in text.split(",") if part.strip()]
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text  # `check` will refuse it


@cache
def keys_of(layer: type[Layer], section: str) -> dict[str, Key]:
    """The keys of a section by their short names."""
    hints = get_type_hints(layer, include_extras=True)
    fields = {field.name: field for field in msgspec.structs.fields(layer)}
    return {name: _key(f"{section}.{name}", hints[name], fields[name]) for name in fields}


@cache
def sections() -> dict[str, type[Layer]]:
    """The sections by name, those in `TABLES` with the type of their tables."""
    hints = get_type_hints(Config)
    return {name: TABLES.get(name, hint) for name, hint in hints.items()}


def _key(name: str, annotation: Any, field: msgspec.structs.FieldInfo) -> Key:
    meta = next(part for part in get_args(annotation)[1:] if isinstance(part, Meta))
    extra = meta.extra or {}
    default = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    return Key(
        name=name,
        type=annotation,
        description=meta.description or "",
        expects=extra["expects"] or _expects(annotation, meta),
        secret_file=extra["secret_file"],
        default=None if default is msgspec.NODEFAULT else default,
        required=field.required,
    )


def _plain(annotation: Any) -> Any:
    """The type without bounds and without None."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if isinstance(annotation, UnionType) or str(get_origin(annotation)) == "typing.Union":
        return _plain(next(part for part in get_args(annotation) if part is not NoneType))
    return annotation


def _expects(annotation: Any, meta: Meta) -> str:
    plain = _plain(annotation)
    if get_origin(plain) is Literal:
        return f"one of {', '.join(get_args(plain))}"
    if get_origin(plain) is tuple:
        return "a list of texts"
    names = {bool: "true or false", int: "an integer", float: "a number", Path: "a path"}
    return names.get(plain, "a text") + _range(meta)


def _range(meta: Meta) -> str:
    return "" if meta.ge is None else f" from {meta.ge} to {meta.le}"


def _path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(value).expanduser()
    if isinstance(value, Path):
        return value
    raise ValueError("a path")
