"""Adapters as they arrive in the worker, part by part between two steps of the engine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, assert_never

from r3mes.actors.inference.adapter_files import hash_adapter
from r3mes.actors.inference.engine import AdapterHost
from r3mes.actors.inference.protocol import (
    AdapterFailed,
    AdapterLoaded,
    AdapterPart,
    LoadAdapter,
    UnloadAdapter,
)
from r3mes.errors import EngineError, ModelInvalid


@dataclass(slots=True)
class _Arriving:
    """One that is not all there."""

    config: bytes
    due: int
    parts: list[bytes] = field(default_factory=list)

    def take(self, data: bytes) -> bool:
        """True if that was the last part."""
        self.parts.append(data)
        self.due -= len(data)
        return self.due <= 0


class AdapterIntake:
    """Takes what the daemon sends of adapters.

    Args:
        host: where they go; None if the engine runs none.
    """

    def __init__(self, host: AdapterHost | None) -> None:
        self._host = host
        self._arriving: dict[int, _Arriving] = {}

    def take(
        self, command: LoadAdapter | AdapterPart | UnloadAdapter
    ) -> AdapterLoaded | AdapterFailed | None:
        """Obey; what is to be reported, once an adapter has arrived."""
        match command:
            case LoadAdapter(number=number, config=config, weight_bytes=due):
                self._arriving[number] = _Arriving(config, due)
            case AdapterPart(number=number, data=data):
                arriving = self._arriving.get(number)
                if arriving is not None and arriving.take(data):
                    return self._load(number, self._arriving.pop(number))
            case UnloadAdapter(number=number):
                self._arriving.pop(number, None)
                if self._host is not None:
                    self._host.unload(number)
            case _:
                assert_never(command)
        return None

    def _load(self, number: int, arrived: _Arriving) -> AdapterLoaded | AdapterFailed:
        try:
            return self._loaded(number, arrived.config, b"".join(arrived.parts))
        except EngineError as error:
            return AdapterFailed(number, error.kind.code, error.detail, error.do)
        except Exception as error:  # noqa: BLE001  the model goes on, whatever a library makes of it
            why = f"the adapter cannot be loaded: {type(error).__name__}: {error}"
            return AdapterFailed(number, ModelInvalid.kind.code, why[:500], "")

    def _loaded(self, number: int, config: bytes, weights: bytes) -> AdapterLoaded:
        if self._host is None:
            raise EngineError("the engine of this model runs no adapters")
        try:
            settings: dict[str, Any] = json.loads(config)
        except (ValueError, RecursionError) as error:
            raise ModelInvalid(f"the adapter's description cannot be read: {error}") from None
        found = hash_adapter(config, hashlib.sha256(weights).hexdigest())
        numeric = self._host.load(number, settings, weights)
        return AdapterLoaded(number, found, numeric, self._host.memory_bytes)
