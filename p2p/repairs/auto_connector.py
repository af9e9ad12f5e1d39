"""libp2p dials nobody by itself.

Defect: `AutoConnector.maybe_connect` aims at the middle between the watermarks, so it dials every
peer whose address it ever heard also with a low watermark of 0, and redials those we left.

Fix: it does nothing; the router decides whom to dial.
"""

from __future__ import annotations

from libp2p.network.auto_connector import AutoConnector


async def _maybe_connect(self: AutoConnector) -> None:
    return


def apply() -> None:
    """Put the repair in place."""
    AutoConnector.maybe_connect = _maybe_connect  # type: ignore[method-assign]
