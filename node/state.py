"""What the node says about itself: ready or why not, and the whole status."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

import trio

from r3mes.actors.inference.actor import Board
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.kernel.canary import Canary
from r3mes.actors.router import Peer, RouterClient
from r3mes.actors.store import Store
from r3mes.config.schema import Config
from r3mes.ids import Address
from r3mes.node.backup.record import last_backup
from r3mes.node.cli.backup import is_backed_up
from r3mes.node.network import Network


class State:
    """Looks at the parts of a node; owns nothing."""

    def __init__(
        self,
        *,
        config: Config,
        wallet: Address,
        store: Store,
        network: Network,
        inference: InferenceClient,
        router: RouterClient,
        canary: Canary,
    ) -> None:
        self._config, self._wallet, self._store = config, wallet, store
        self._network, self._inference, self._router = network, inference, router
        self._canary = canary
        self._started = trio.current_time()
        self.draining = False

    async def not_ready(self) -> list[str]:
        """Why the node cannot answer now, one reason each; empty when it can."""
        reasons = []
        if self.draining:
            reasons.append("the node is stopping")
        if problem := self._store.problem():
            reasons.append(str(problem))
        if not self._network.addrs:
            reasons.append("the network side is starting")
        if not self._inference.manifests() and not await self._served_by_peers():
            reasons += self._without_model()
        return reasons

    def line(self) -> str:
        """What the node does now, for the one line that systemd shows."""
        if self.draining:
            return "finishing what was accepted"
        boards = self._inference.boards()
        loading = [name for name, board in boards.items() if board.state == "loading"]
        serving, peers = len(self._inference.manifests()), len(self._network.connected())
        running = sum(board.running for board in boards.values())
        return ", ".join(
            [
                *(f"loading {name}" for name in loading),
                f"serving {_counted(serving, 'model')}",
                _counted(peers, "peer"),
                f"{running} running",
            ]
        )

    async def _served_by_peers(self) -> bool:
        return any(peer.hello.models for peer in await self._router.peers())

    def _without_model(self) -> list[str]:
        boards = self._inference.boards()
        if not boards:
            return ["no connected peer serves a model, and this node has none"]
        return [
            f"model {name}: {board.error.detail if board.error else board.state}"
            for name, board in boards.items()
        ]

    async def status(self) -> Mapping[str, object]:
        """All that `r3mes status` and `r3mes peers` show; JSON types only."""
        reasons = await self.not_ready()
        boards = self._inference.boards().values()
        lag = self._canary.statistics()
        return {
            "ready": not reasons,
            "reasons": reasons,
            "version": version("r3mes"),
            "chain_id": self._config.node.chain_id,
            "peer_id": self._network.peer_id,
            "addrs": list(self._network.addrs),
            "uptime_s": round(trio.current_time() - self._started, 1),
            "reachability": {"verdict": "unknown"},
            "models": [_model(name, board) for name, board in self._inference.boards().items()],
            "load": {
                "running": sum(board.running for board in boards),
                "queued": sum(board.waiting for board in boards),
                "slots": self._config.limits.slots * len(self._config.models),
            },
            "peers": [_peer(peer) for peer in await self._router.peers()],
            "wallet": {
                "address": self._wallet,
                "backed_up": is_backed_up(self._config, self._config.wallet.name),
            },
            "last_backup_at": last_backup(self._config.node.datadir),
            "loop_lag_p99_ms": round(lag.p99_ms, 2),
        }


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _model(name: str, board: Board) -> dict[str, object]:
    manifest = board.ready.manifest if board.ready else None
    return {
        "name": name,
        "state": board.state,
        "why": board.error.detail if board.error else None,
        "device": manifest.device if manifest else None,
        "dtype": manifest.dtype if manifest else None,
        "context": manifest.context if manifest else None,
        "hash": manifest.hash.hex() if manifest else None,
        "restarts": board.restarts,
    }


def _peer(peer: Peer) -> dict[str, object]:
    return {
        "peer_id": peer.peer,
        "wallet": peer.wallet,
        "hello_ms": round(peer.hello_ms, 1),
        "models": [{"name": offer.name, "hash": offer.hash.hex()} for offer in peer.hello.models],
    }
