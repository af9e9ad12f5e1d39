"""Reads the configuration: defaults < file < environment < flags.

Each value is checked by itself, where it stands, so that a message can name the file and line, the
variable or the flag at fault.  ``R3MES_API__LISTEN`` sets ``api.listen``; a list is given in TOML's
form or with commas.  Relative paths count from the folder of the configuration file, those from
elsewhere from the current folder.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from r3mes.config.keys import TABLES, Key, keys_of, sections
from r3mes.config.paths import config_file
from r3mes.config.routes import check_routes, with_examples
from r3mes.config.schema import AUTO, MODELS_CAP, NAME, Config, Embedding, Layer, Model
from r3mes.config.secrets import check_secret_file, is_there
from r3mes.config.sources import Setting, from_env, from_file, from_flags, from_text, known_key
from r3mes.errors import ConfigError

OTEL_LIBRARIES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
"""What the extra `otel` installs; looked for, not imported."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where each value came from.

    Args:
        file: the file that was read, or would have been.
        origins: by dotted key: ``default``, ``file PATH:LINE``, ``env NAME`` or ``flag --NAME``.
    """

    config: Config
    file: Path
    origins: Mapping[str, str]


def load(
    *,
    file: Path | None,
    env: Mapping[str, str],
    flags: Mapping[str, object],
    text: str | None = None,
) -> Loaded:
    """Read and check the whole configuration.

    Args:
        text: what to take the file to hold, whatever it does.
        file: the TOML file, which may be missing; None takes the usual place.
        env: the environment.
        flags: values from the command line by dotted key, such as ``api.listen``.

    Raises:
        ConfigError: a key or value is wrong; says where, and what would be right.
        InsecureFile: a file with a secret can be read by others.
    """
    path = (file or config_file(env)).absolute()
    if text is not None:
        in_file = from_text(text, path)
    else:
        in_file = from_file(path) if is_there(path) else iter(())
    found = [*in_file, *from_env(env), *from_flags(flags)]
    origins = dict.fromkeys(all_keys(), "default") | {one.key: one.origin for one in found}
    values: dict[str, Any] = {section: {} for section in sections()} | dict.fromkeys(TABLES, ())
    for setting in found:
        section, _, name = setting.key.partition(".")
        if section in TABLES:
            values[section] = tuple(_tables(setting))
        else:
            values[section][name] = _placed(_checked(all_keys()[setting.key], setting), setting)
    config = with_examples(_build(values, path.parent), origins.get("routes", "default"))
    _check_whole(config, origins)
    return Loaded(config, path, origins)


def all_keys() -> dict[str, Key]:
    """Every key by its dotted name, but those of tables such as ``[[models]]``."""
    return {
        key.name: key
        for section, layer in sections().items()
        for key in (keys_of(layer, section).values() if section not in TABLES else ())
    }


def value_of(config: Config, key: str) -> object:
    """The value of a dotted key; of a section, its values by name."""
    section, _, name = key.partition(".")
    layer = getattr(config, section)
    return getattr(layer, name) if name else layer


def check_value(key: str, value: object, origin: str) -> None:
    """See that ``value``, which came from ``origin``, is right for the dotted key by itself.

    Raises:
        ConfigError: it is not.
    """
    try:
        _checked(all_keys()[key], Setting(key, value, origin))
    except ConfigError as error:
        raise ConfigError(error.detail, do="give another value; nothing was changed") from None


def _checked(key: Key, setting: Setting) -> object:
    try:
        return key.check(setting.value)
    except ValueError as error:
        raise ConfigError(
            f"{setting.origin}: {setting.key} is {_shown(setting.value)}, expected is {error}"
        ) from None


def _placed(value: object, setting: Setting) -> object:
    """Paths from the environment and from flags count from the current folder."""
    in_file = setting.origin.startswith("file ")
    return value if in_file or not isinstance(value, Path) else value.absolute()


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _tables(setting: Setting) -> Iterator[Layer]:
    tables, section = setting.value, setting.key
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(
            f"{setting.origin}: {section} are tables of their own: write [[{section}]]"
        )
    keys = keys_of(TABLES[section], section)
    for number, table in enumerate(tables):
        values: dict[str, Any] = {}
        for name, value in table.items():
            known_key(section, name, setting.origin)
            at = Setting(f"{section}[{number}].{name}", value, setting.origin)
            values[name] = _checked(keys[name], at)
        for name, key in keys.items():
            if key.required and name not in values:
                raise ConfigError(f"{setting.origin}: {section}[{number}] has no {name}")
        yield TABLES[section](**values)


def _build(values: Mapping[str, Any], folder: Path) -> Config:
    layers: dict[str, Any] = {
        section: tuple(_in(folder, table) for table in values[section]) for section in TABLES
    }
    for section, layer in sections().items():
        if section in TABLES:
            continue
        filled = {key: values[section].get(key, one.default) for key, one in
                  keys_of(layer, section).items()}  # fmt: skip
        layers[section] = layer(
            **{
                name: folder / value if isinstance(value, Path) else value
                for name, value in filled.items()
            }
        )
    return Config(**layers)


def _in(folder: Path, table: Layer) -> Layer:
    paths = {name: folder / value for name, value in msgspec.structs.asdict(table).items()
             if isinstance(value, Path)}  # fmt: skip
    return msgspec.structs.replace(table, **paths)


def _check_whole(config: Config, origins: Mapping[str, str]) -> None:
    """What no key can know by itself."""
    for name, key in all_keys().items():
        path = value_of(config, name)
        if key.secret_file and isinstance(path, Path) and os.access(path, os.F_OK):
            check_secret_file(path)  # what this user cannot see is not his to check
    for model in config.models:
        if (path := model.upstream_key_file) and os.access(path, os.F_OK):
            check_secret_file(path)
    if not config.api.insecure and not _is_loopback(config.api.listen):
        raise ConfigError(
            f"{origins['api.listen']}: api.listen is {config.api.listen!r}, which others can "
            "reach, and API keys would travel unencrypted",
            do="listen on 127.0.0.1 behind a proxy with TLS, or set api.insecure = true",
        )
    if config.otel.endpoint and not all(map(find_spec, OTEL_LIBRARIES)):
        raise ConfigError(
            f"{origins['otel.endpoint']}: otel.endpoint needs OpenTelemetry, which is missing",
            do="install it (pip install 'r3mes[otel]'), or leave the key out",
        )
    _check_models(config, origins.get("models", "default"))
    _check_adapters(config, origins.get("adapters", "default"))
    check_routes(config, origins.get("routes", "default"))


def _check_models(config: Config, origin: str) -> None:
    """What peers would refuse: they take so many models, and names of this form."""
    names = [served_name(model) for model in config.models]
    if len(names) > MODELS_CAP:
        raise ConfigError(f"{origin}: a node serves {MODELS_CAP} models at most, not {len(names)}")
    for model in config.models:
        if why := _misfit(model):
            raise ConfigError(f"{origin}: {model.id}: {why}")
    if unfit := [name for name in names if not re.fullmatch(NAME, name)]:
        raise ConfigError(
            f"{origin}: a model cannot be called {unfit[0]!r}",
            do="give it a name of up to 128 letters, digits and ._/-",
        )
    embedding = embedding_name(config.embedding)
    every = names if embedding is None else [*names, embedding]
    if AUTO in every:
        raise ConfigError(
            f"{origin}: a model cannot be called {AUTO!r}, which stands for the router's choice",
            do="give it another name",
        )
    if twice := {name for name in every if every.count(name) > 1}:
        raise ConfigError(
            f"{origin}: two models are called {min(twice)!r}",
            do="give one of them another name",
        )


def _misfit(model: Model) -> str:
    """What of a model's keys does not go together."""
    if model.upstream_url is None:
        if model.engine == "upstream":
            return 'engine = "upstream" needs upstream_url'
        beside = model.upstream_key_file or model.tokenizer
        return "upstream_key_file and tokenizer are for a model with upstream_url" if beside else ""
    if model.engine not in ("auto", "upstream"):
        return f'engine = "{model.engine}" does not go with upstream_url'
    if model.tokenizer is None:
        return "upstream_url needs tokenizer, a directory with the model's tokenizer.json"
    return ""


def _check_adapters(config: Config, origin: str) -> None:
    models = [served_name(model) for model in config.models]
    names = [(adapter.model, adapter.name) for adapter in config.adapters]
    for model, name in names:
        if model not in models:
            raise ConfigError(
                f"{origin}: the adapter {name} is for a model {model!r}, which is not served",
                do="name one of [[models]], by its name",
            )
        if names.count((model, name)) > 1:
            raise ConfigError(f"{origin}: two adapters are called '{model}:{name}'")
    if (offers := len(models) + len(names)) > MODELS_CAP:
        raise ConfigError(
            f"{origin}: a node offers {MODELS_CAP} models and adapters at most, not {offers}"
        )


def served_name(model: Model) -> str:
    """What a model is called in the network."""
    return model.name or model.id.rstrip("/").rpartition("/")[2]


def embedding_name(embedding: Embedding) -> str | None:
    """What applications call the model for embeddings; None if there is none."""
    if embedding.model is None:
        return None
    return embedding.name or embedding.model.rstrip("/").rpartition("/")[2]


def _is_loopback(listen: str) -> bool:
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
