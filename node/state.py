"""What the node says about itself: ready or why not, and the whole status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import trio

from r3mes.actors.inference.actor import Board
from r3mes.actors.inference.choice import NONE, TORCH, missing_for
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.process import memory_bytes_of
from r3mes.actors.kernel.canary import Canary
from r3mes.actors.router import RouterClient
from r3mes.actors.store import SCHEMA, Store
from r3mes.errors import R3mesError
from r3mes.node.backup.record import last_backup
from r3mes.node.catalogue import idle_s
from r3mes.node.clock import ClockWatch
from r3mes.node.doors import Doors
from r3mes.node.earnings import Earnings
from r3mes.node.network import Network
from r3mes.node.paper import is_backed_up
from r3mes.node.peers import Peers
from r3mes.node.recent import Recent
from r3mes.node.reload import Reload
from r3mes.node.vault import Vault


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """Who a node is.

    Args:
        network: the chain id; nodes of another are not used.
        started_at: RFC 3339, UTC.
        schema: of the database.
        addrs: full multiaddresses; empty while the network side starts.
    """

    peer_id: str
    version: str
    network: str
    started_at: str
    schema: int
    addrs: list[str]


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of readiness; ``reason`` says what is wrong if it is not ``ok``."""

    name: str
    ok: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class Health:
    """Whether requests can be answered now."""

    ready: bool
    checks: list[Check]


LOCKED = "the wallet is locked, `r3mes wallet unlock` opens it"


class State:
    """Looks at the parts of a node; owns nothing."""

    def __init__(
        self,
        *,
        reload: Reload,
        clock: ClockWatch,
        vault: Vault,
        store: Store,
        network: Network,
        inference: InferenceClient,
        router: RouterClient,
        canary: Canary,
        peers: Peers,
        recent: Recent,
        earnings: Earnings,
        doors: Doors,
    ) -> None:
        self._peers, self._recent, self._earnings = peers, recent, earnings
        self._reload, self._clock, self._vault, self._store = reload, clock, vault, store
        self._network, self._inference, self._router = network, inference, router
        self._canary = canary
        self._started = trio.current_time()
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._doors = doors

    def info(self) -> NodeInfo:
        """Who this node is."""
        return NodeInfo(
            peer_id=self._network.peer_id,
            version=version("r3mes"),
            network=self._reload.config.node.chain_id,
            started_at=self._started_at,
            schema=SCHEMA,
            addrs=list(self._network.addrs),
        )

    async def health(self) -> Health:
        """Whether requests can be answered now, check by check."""
        checks = [
            _check("accepting", self._not_accepting()),
            _check("wallet", None if self._vault.is_open else LOCKED),
            _check("store", self._store.problem()),
            _check("network", None if self._network.addrs else "the network side is starting"),
            _check("models", await self._without_model()),
        ]
        return Health(all(check.ok for check in checks), checks)

    async def not_ready(self) -> list[str]:
        """Why the node cannot answer now, one reason each; empty when it can."""
        return [check.reason for check in (await self.health()).checks if check.reason]

    def line(self) -> str:
        """What the node does now, for the one line that systemd shows."""
        if self._doors.stopping:
            return "finishing what was accepted"
        if self._doors.shut:
            return "drained, takes no new requests"
        if not self._vault.is_open:
            return "wallet locked, open it with: r3mes wallet unlock"
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

    def word(self, *, ready: bool) -> str:
        """The same in one word, given what `not_ready` says."""
        if self._doors.stopping:
            return "stopping"
        if self._doors.shut:
            return "drained"
        if not self._vault.is_open:
            return "locked"
        return "ready" if ready else "not_ready"

    def warnings(self) -> dict[str, str]:
        """What does not keep the node from answering, and should be seen to all the same."""
        found = {}
        if not self._reload.last_ok:
            found["config_refused"] = (
                "the configuration that was to be reloaded is wrong: r3mes config check"
            )
        if self._reload.needs_restart:
            keys = ", ".join(self._reload.needs_restart)
            found["needs_restart"] = f"a restart is needed for {keys}"
        if (jump := self._clock.last) is not None:
            found["clock_jumped"] = str(jump)
        return found

    def _not_accepting(self) -> str | None:
        if self._doors.stopping:
            return "the node is stopping"
        return "the node is drained until node_resume is called" if self._doors.shut else None

    async def _without_model(self) -> str | None:
        """Why no model can be asked for; None if one can."""
        boards = self._inference.boards()
        try:
            if self._inference.manifests() or await self._served_by_peers():
                return None
        except R3mesError as error:
            return f"the router does not answer: {error.detail}"
        if not boards:
            return "no connected peer serves a model, and this node has none"
        return "; ".join(
            f"model {name}: {board.error.detail if board.error else board.state}"
            for name, board in boards.items()
        )

    async def _served_by_peers(self) -> bool:
        return any(peer.hello.models for peer in await self._router.peers())

    async def status(self) -> Mapping[str, object]:
        """All that `r3mes status` and `r3mes peers` show; JSON types only."""
        reasons = await self.not_ready()
        boards = self._inference.boards().values()
        lag = self._canary.statistics()
        return {
            "ready": not reasons,
            "reasons": reasons,
            "version": version("r3mes"),
            "chain_id": self._reload.config.node.chain_id,
            "peer_id": self._network.peer_id,
            "addrs": list(self._network.addrs),
            "uptime_s": round(trio.current_time() - self._started, 1),
            "reachability": {"verdict": "unknown"},
            "engine": _engine(boards),
            "models": [_model(name, board) for name, board in self._inference.boards().items()],
            "load": {
                "running": sum(board.running for board in boards),
                "queued": sum(board.waiting for board in boards),
                "slots": sum(board.slots for board in boards),
            },
            "last_60s": asdict(self._recent.last_minute()),
            "routed": {"in": self._recent.served, "out": self._recent.asked},
            "today": await self._today(),
            "peers": [asdict(peer) for peer in await self._peers.shown()],
            "wallet": {
                "address": self._vault.address,
                "locked": not self._vault.is_open,
                "backed_up": is_backed_up(self._reload.config, self._reload.config.wallet.name),
            },
            "last_backup_at": last_backup(self._reload.config.node.datadir),
            "warnings": list(self.warnings().values()),
            "loop_lag_p99_ms": round(lag.p99_ms, 2),
        }

    async def _today(self) -> Mapping[str, int] | None:
        """What was earned and spent since midnight; None while the store cannot say."""
        try:
            totals = await self._earnings.today()
        except R3mesError:
            return None
        return {"earned_uremes": totals.earned_uremes, "spent_uremes": totals.spent_uremes}


def _check(name: str, problem: R3mesError | str | None) -> Check:
    """Its reason goes into sentences of others, and so has no full stop."""
    return Check(name, problem is None, None if problem is None else str(problem).rstrip("."))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _engine(boards: Iterable[Board]) -> str:
    """Which engines run models here, or why none does."""
    chosen = [board.choice for board in boards if board.choice]
    if running := sorted({choice.engine for choice in chosen} - {NONE}):
        return ", ".join(running)
    why = chosen[0].reason if chosen else missing_for(TORCH) or "no model is configured"
    return f"none, because {why}"


def _model(name: str, board: Board) -> dict[str, object]:
    manifest = board.ready.manifest if board.ready else None
    return {
        "name": name,
        "state": board.state,
        "why": board.error.detail if board.error else None,
        "engine": board.choice.engine if board.choice else None,
        "engine_reason": board.choice.reason if board.choice else None,
        "device": manifest.device if manifest else None,
        "dtype": manifest.dtype if manifest else None,
        "context": manifest.context if manifest else None,
        "hash": manifest.hash.hex() if manifest else None,
        "memory_bytes": memory_bytes_of(board.pid) if board.pid else 0,
        "gpu_bytes": board.gpu_bytes if board.pid else 0,
        "idle_s": idle_s(board),
        "restarts": board.restarts,
    }
