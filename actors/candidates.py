"""A value that routing hands out and the gateway uses: somebody who can answer."""

from __future__ import annotations

from dataclasses import dataclass

from r3mes.ids import Address, PeerId
from r3mes.p2p.protocols.infer import ModelOffer


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that serves a model, and the wallet that will sign its answers."""

    peer: PeerId
    wallet: Address
    offer: ModelOffer
