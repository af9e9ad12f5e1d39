"""Who can answer a request: this node, and the peers that its router knows."""

from __future__ import annotations

from collections.abc import Sequence

from r3mes.actors.candidates import Candidate
from r3mes.actors.router import RouterClient
from r3mes.errors import ModelNotFound
from r3mes.ids import Address, PeerId
from r3mes.node.models import OwnModels


class Routes:
    """Who can answer: this node first, then the peers that the router knows."""

    def __init__(
        self, own: PeerId, wallet: Address, models: OwnModels, router: RouterClient
    ) -> None:
        self._own, self._wallet, self._models, self._router = own, wallet, models, router

    async def candidates(self, model: str) -> Sequence[Candidate]:
        own = [one for one in self._own_offers() if model in (one.offer.name, one.offer.hash.hex())]
        try:
            return [*own, *await self._router.candidates(model)]
        except ModelNotFound:
            if not own:
                self._models.explain(model)
                raise
            return own

    async def offers(self) -> Sequence[Candidate]:
        peers = await self._router.peers()
        return [*self._own_offers(), *(one for peer in peers for one in peer.candidates())]

    def check_room(self, candidate: Candidate, patience_s: float) -> None:
        """Raise `Overloaded` if it is this node and could not begin within ``patience_s``.

        A peer's queue is not known here: it refuses by itself.
        """
        if candidate.peer == self._own:
            self._models.check_room(candidate.offer.name, patience_s)

    def ended(self, peer: PeerId, *, ok: bool) -> None:
        if peer != self._own:
            self._router.ended(peer, ok=ok)

    def _own_offers(self) -> list[Candidate]:
        return [Candidate(self._own, self._wallet, offer) for offer in self._models.offers()]
