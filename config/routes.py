"""The routes of the configuration: examples from files, and what no route can know by itself."""

from __future__ import annotations

from pathlib import Path

import msgspec

from r3mes.config.schema import AUTO, EXAMPLES_CAP, PROMPT, ROUTES_CAP, Config, Route
from r3mes.errors import ConfigError

FILE_BYTES = 4 * 1024 * 1024


def with_examples(config: Config, origin: str) -> Config:
    """The configuration with the examples of all files among the others.

    Raises:
        ConfigError: a file cannot be read, or has a line that is too long.
    """
    routes = tuple(_with_file(route, origin) if route.file else route for route in config.routes)
    return msgspec.structs.replace(config, routes=routes)


def _with_file(route: Route, origin: str) -> Route:
    file = route.file or Path()
    try:
        if file.stat().st_size > FILE_BYTES:
            raise ConfigError(f"{origin}: {file} is larger than {FILE_BYTES} bytes")
        lines = file.read_text("utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"{origin}: {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{origin}: {file} is not text in UTF-8") from None
    examples = [line.strip() for line in lines if line.strip()]
    for number, line in enumerate(lines, 1):
        if len(line) > (PROMPT.max_length or 0):
            raise ConfigError(
                f"{file}:{number}: an example has {PROMPT.max_length} characters at most"
            )
    return msgspec.structs.replace(route, examples=(*route.examples, *examples))


def check_routes(config: Config, origin: str) -> None:
    """See that the routes go together.

    Raises:
        ConfigError: too many, two of one name, one without examples or with a model that is none.
    """
    names = [route.name for route in config.routes]
    if len(names) > ROUTES_CAP:
        raise ConfigError(f"{origin}: there are {ROUTES_CAP} routes at most, not {len(names)}")
    for route in config.routes:
        if names.count(route.name) > 1:
            raise ConfigError(
                f"{origin}: two routes are called {route.name!r}", do="give one another name"
            )
        if not any(text.strip() for text in route.examples):
            raise ConfigError(f"{origin}: the route {route.name} has no examples")
        if route.model == AUTO:
            raise ConfigError(f"{origin}: the route {route.name} leads to {AUTO!r}, to no model")
    if config.routing.default == AUTO:
        raise ConfigError(f"routing.default is {AUTO!r}, which is no model")
    texts = [*config.routing.outside, *config.routing.outside_held_out]
    for route in config.routes:
        texts += [*route.examples, *route.held_out]
    if len(texts) > EXAMPLES_CAP:
        raise ConfigError(
            f"{origin}: the routes have {len(texts)} prompts, and may have {EXAMPLES_CAP} together",
            do="keep those that differ most",
        )
