"""What is known of a key; its secrets are not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from r3mes.errors import BadRequest

SCOPES = "riwa"
"""Read, invoke, wallet, admin."""

MAX_NAME, MAX_MODELS, MAX_MODEL, MAX_RPM = 64, 64, 256, 1_000_000
MAX_MS = 253_402_300_799_999
"""The end of the year 9999."""


@dataclass(frozen=True, slots=True)
class Secret:
    """One of the secrets that open a key, known by its hash.

    Args:
        expires_ms: when it stops to open the key, which a newer one opens by then; None for never.
        last_used_ms: exact to a minute.
    """

    hash: bytes = field(repr=False)
    created_ms: int
    expires_ms: int | None
    last_used_ms: int | None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, what it may do, and when its secrets were used.

    Args:
        id: may be shown; it is part of each of its secrets.
        models: the only models that it may ask; None for all.
        rpm: requests a minute; None for as many as everybody.
        secrets: the newest last; two while it is rotated.
    """

    id: str
    name: str
    scopes: frozenset[str]
    models: tuple[str, ...] | None
    rpm: int | None
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None
    secrets: tuple[Secret, ...]

    @property
    def last_used_ms(self) -> int | None:
        return max((each.last_used_ms or 0 for each in self.secrets), default=0) or None


@dataclass(frozen=True, slots=True)
class Issued:
    """A secret that was just made: the only moment in which it can be shown."""

    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a key is to be.

    Raises:
        BadRequest: something about it is wrong.
    """

    name: str
    scopes: Iterable[str]
    models: Sequence[str] | None = None
    rpm: int | None = None
    expires_ms: int | None = None

    def __post_init__(self) -> None:
        if not self.name.isprintable() or not 0 < len(self.name.strip()) <= MAX_NAME:
            raise BadRequest(f"a key's name has 1 to {MAX_NAME} characters", param="name")
        if not self.letters or not set(self.letters) <= set(SCOPES):
            what = f"scopes are some of {', '.join(SCOPES)}, not {self.letters!r}"
            raise BadRequest(what, param="scopes")
        if self.models is not None and not 0 < len(self.models) <= MAX_MODELS:
            raise BadRequest(f"a list of models names 1 to {MAX_MODELS}", param="models")
        if not all(name.isprintable() and 0 < len(name) <= MAX_MODEL for name in self.models or ()):
            raise BadRequest(f"a model has 1 to {MAX_MODEL} characters", param="models")
        if self.rpm is not None and not 0 < self.rpm <= MAX_RPM:
            raise BadRequest(f"a rate is 1 to {MAX_RPM} requests a minute", param="rpm")
        if self.expires_ms is not None and not 0 < self.expires_ms <= MAX_MS:
            raise BadRequest("a key expires before the year 10000", param="expires_ms")

    @property
    def letters(self) -> str:
        return "".join(sorted(set(self.scopes)))

    @property
    def models_json(self) -> str | None:
        return None if self.models is None else json.dumps(list(self.models))
