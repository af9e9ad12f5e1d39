"""Puts all repairs in place, once, before any host exists.

They replace private methods of one release.  Another release is refused: each repair has a
contract test that says what it relies on, and they are to be run anew first.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

from r3mes.errors import R3mesError
from r3mes.p2p.repairs import (
    auto_connector,
    handshakes,
    new_streams,
    pings,
    receive_window,
    remote_addresses,
    resets,
    stream_handlers,
    whole_reads,
    whole_writes,
    window_waits,
)

LIBP2P: Final = "0.8.1"
REPAIRS: Final = (
    whole_writes,
    whole_reads,
    receive_window,
    pings,
    stream_handlers,
    new_streams,
    resets,
    window_waits,
    handshakes,
    auto_connector,
    remote_addresses,
)

_applied = False


def apply() -> None:
    """Repair libp2p in this process; does nothing the second time.

    Raises:
        R3mesError: another release of libp2p is installed.
    """
    global _applied
    if _applied:
        return
    found = version("libp2p")
    if found != LIBP2P:
        raise R3mesError(
            f"libp2p {found} is installed and the repairs are for {LIBP2P}",
            do=f"install libp2p=={LIBP2P}",
        )
    for repair in REPAIRS:
        repair.apply()
    _applied = True
