"""How an error crosses the wire: its code and a sentence.

A peer must not make us believe that our own disk is full or our key is wrong, so only the codes of
`TOLD` become their class again; any other is an error of the network that names the peer.
"""

from __future__ import annotations

from typing import Final

from r3mes.errors import (
    REGISTRY,
    AlreadyAnswered,
    BadRequest,
    ContextLengthExceeded,
    EngineCrashed,
    EnvelopeRefused,
    EnvelopeReplayed,
    ModelNotFound,
    NetworkError,
    NotReady,
    Overloaded,
    PriceExceeded,
    R3mesError,
    TooLarge,
)
from r3mes.ids import PeerId
from r3mes.p2p.protocols.infer.messages import SAYING_CAP, Failed, TurnedDown

TOLD: Final[dict[str, type[R3mesError]]] = {
    kind.kind.code: kind
    for kind in (
        AlreadyAnswered,
        BadRequest,
        ContextLengthExceeded,
        EngineCrashed,
        EnvelopeRefused,
        EnvelopeReplayed,
        ModelNotFound,
        NotReady,
        Overloaded,
        PriceExceeded,
        TooLarge,
    )
}
"""Errors of the serving node that mean the same to the gateway."""
RETRY_CAP_S = 3600.0
"""Longest retry-after that is believed."""


def turned_down(error: R3mesError, receipt: bytes) -> TurnedDown:
    """``error`` as the answer to a request that was not accepted."""
    retry_after_ms = round(1000 * min(error.retry_after_s or 0.0, RETRY_CAP_S))
    return TurnedDown(error.kind.code, _clip(error.detail), retry_after_ms, receipt)


def failed(error: R3mesError) -> Failed:
    """``error`` as the end of an answer that had begun."""
    return Failed(error.kind.code, _clip(error.detail))


def raised(told: TurnedDown | Failed, peer: PeerId) -> R3mesError:
    """The error that ``peer`` told us of, as our own class."""
    saying = "".join(c for c in told.message if c.isprintable()) or told.code
    kind = TOLD.get(told.code)
    if kind is None:
        return NetworkError(f"peer {peer} failed with {told.code!r}: {saying}")
    return kind(f"peer {peer}: {saying}", retry_after_s=_retry_after_s(told))


def raised_here(told: TurnedDown | Failed, peer: PeerId) -> R3mesError:
    """The error that this node told itself: there is nothing that it may not say."""
    return REGISTRY[told.code](told.message, retry_after_s=_retry_after_s(told))


def _retry_after_s(told: TurnedDown | Failed) -> float | None:
    retry_after_ms = told.retry_after_ms if isinstance(told, TurnedDown) else 0
    return min(retry_after_ms / 1000, RETRY_CAP_S) or None


def _clip(saying: str) -> str:
    return saying.encode()[:SAYING_CAP].decode(errors="ignore")
