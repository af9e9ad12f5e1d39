"""The configuration in force, and how a new one takes its place while the node runs.

All of it or nothing: the sources are read and checked whole, and what does not hold leaves every
value as it is.  What a running node can take over is taken over; the rest is named, again and
again until the node is restarted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from r3mes.config.editing import replace_file
from r3mes.config.keys import TABLES
from r3mes.config.load import Loaded, all_keys, served_name, value_of
from r3mes.config.schema import Config, Model
from r3mes.errors import R3mesError
from r3mes.node.audit import audit

logger = logging.getLogger(__name__)

PRICES = ("price_prompt", "price_completion")
"""What can change of a model that is loaded."""
MODELS = "models"


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of it; keys are dotted.

    Args:
        changed: in force now.
        needs_restart: other than what is in force, and taken over at the next start.
    """

    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]


class Reload:
    """The configuration in force.

    Args:
        loaded: what the node starts with.
        read: reads and checks all its sources anew; given a text, as if the file held that.
        now_ms: the wall clock, in unix milliseconds.
    """

    def __init__(
        self, loaded: Loaded, read: Callable[..., Loaded], *, now_ms: Callable[[], int]
    ) -> None:
        self.loaded = loaded
        self._read, self._now_ms = read, now_ms
        self._live: dict[str, Callable[[Config], None]] = {}
        self._editing, self._reloading = trio.Lock(), trio.Lock()
        self.last_ok, self.last_at_ms = True, now_ms()
        """Whether the last reload was taken, and when it was; the start counts as one."""
        self.needs_restart: tuple[str, ...] = ()
        """What the last reload could not take over."""

    @property
    def config(self) -> Config:
        """The values in force."""
        return self.loaded.config

    def live(self, key: str, apply: Callable[[Config], None]) -> None:
        """From now on ``key`` may change: ``apply`` is given the whole configuration then.

        Args:
            key: dotted, such as ``log.level``; ``models`` stands for the prices in it.
            apply: takes the value over; must not fail for one that the schema allows.
        """
        self._live[key] = apply

    async def check(self, text: str | None = None) -> Loaded:
        """What would be read now, or if the file held ``text``; changes nothing.

        Raises:
            ConfigError: it is wrong.
        """
        read = self._read if text is None else partial(self._read, text=text)
        return await self._loaded(read)

    async def _loaded(self, read: Callable[[], Loaded]) -> Loaded:
        # Reading changes nothing, so whoever is cancelled need not wait for a file that hangs.
        return await trio.to_thread.run_sync(read, abandon_on_cancel=True)

    async def edit(
        self, change: Callable[[str], str], noted: Callable[[], None]
    ) -> tuple[Loaded, Reloaded]:
        """Change the text of the file, and take over what a running node can.

        Args:
            change: makes the new text of the old; a text that does not hold changes nothing.
            noted: called once it is written.

        Returns:
            What was read of the new text, and what came of it.

        Raises:
            ConfigError: the new text is wrong, or cannot be written.
        """
        async with self._editing:  # from reading to writing, or a change in between is lost
            file = self.loaded.file
            new = change(await trio.to_thread.run_sync(_text, file))
            wanted = await self.check(new)
            with trio.CancelScope(shield=True):  # who hangs up must not leave it half done
                await trio.to_thread.run_sync(replace_file, file, new)
                noted()
                done = await self.reload()
        return wanted, done

    async def reload(self) -> Reloaded:
        """Read the configuration again and take over what can be.

        Raises:
            ConfigError: it is wrong; everything stays as it was.
        """
        async with self._reloading:
            try:
                done = self._take(await self._loaded(self._read))
            except R3mesError as error:
                logger.error("configuration not reloaded, all stays as it was: %s", error)  # noqa: TRY400
                self.last_ok, self.last_at_ms = False, self._now_ms()
                audit("config_refused", why=error.detail)
                raise
        self.last_ok, self.last_at_ms = True, self._now_ms()
        self.needs_restart = done.needs_restart
        needed = ", ".join(done.needs_restart) or None
        audit("config_reloaded", changed=", ".join(done.changed), needs_restart=needed)
        logger.warning("configuration reloaded; changed: %s", _listed(done.changed))
        if done.needs_restart:
            logger.warning("a restart is needed for: %s", _listed(done.needs_restart))
        return done

    def _take(self, new: Loaded) -> Reloaded:
        before, wanted = self.config, new.config
        every = (*all_keys(), *(name for name in TABLES if name != MODELS))
        keys = [key for key in every if value_of(before, key) != value_of(wanted, key)]
        changed = [key for key in keys if key in self._live]
        models, prices = _repriced(before.models, wanted.models)
        if MODELS not in self._live:
            models, prices = before.models, []
        after = _with(before, {key: value_of(wanted, key) for key in changed}, models)
        self._apply([*changed, *([MODELS] if prices else [])], before, after)
        rest = [key for key in keys if key not in self._live]
        if models != wanted.models:
            rest.append(MODELS)
        still = {key: self.loaded.origins.get(key, "default") for key in rest}
        self.loaded = replace(self.loaded, config=after, origins={**new.origins, **still})
        return Reloaded((*changed, *prices), tuple(rest))

    def _apply(self, keys: list[str], before: Config, after: Config) -> None:
        applied: list[Callable[[Config], None]] = []
        try:
            for apply in dict.fromkeys(self._live[key] for key in keys):
                applied.append(apply)
                apply(after)
        except BaseException:
            for apply in applied:
                apply(before)
            raise


def _with(config: Config, values: Mapping[str, object], models: tuple[Model, ...]) -> Config:
    """``config`` with other values for some keys, and with ``models``."""
    layers: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        layer = layers.get(section, getattr(config, section))
        layers[section] = msgspec.structs.replace(layer, **{name: value}) if name else value
    return msgspec.structs.replace(config, models=models, **layers)


def _repriced(
    before: tuple[Model, ...], wanted: tuple[Model, ...]
) -> tuple[tuple[Model, ...], list[str]]:
    """The models in force with the prices that are wanted for them, and which of these differ."""
    by_name = {served_name(model): model for model in wanted}
    models, prices = [], []
    for model in before:
        name = served_name(model)
        other = by_name.get(name, model)
        differing = {key: getattr(other, key) for key in _differing_prices(model, other)}
        models.append(msgspec.structs.replace(model, **differing))
        prices += [f"{MODELS}.{name}.{key}" for key in differing]
    return tuple(models), prices


def _differing_prices(one: Model, other: Model) -> Iterator[str]:
    return (key for key in PRICES if getattr(one, key) != getattr(other, key))


def _text(file: Path) -> str:
    return file.read_text("utf-8") if file.exists() else ""


def _listed(keys: tuple[str, ...]) -> str:
    return ", ".join(keys) or "nothing"
