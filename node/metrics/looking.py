"""Looks at the parts of a node when somebody scrapes; they keep no counters for Prometheus."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from r3mes.actors.inference.actor import Board
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.kernel.child import ChildStatistics
from r3mes.actors.kernel.child import State as ChildState
from r3mes.actors.kernel.mailbox import Mailbox
from r3mes.actors.kernel.supervisor import Supervisor
from r3mes.actors.store import Store
from r3mes.config.schema import Config
from r3mes.errors import R3mesError
from r3mes.node.backup.record import last_backup
from r3mes.node.heartbeat import Heartbeat
from r3mes.node.metrics import declared as d
from r3mes.node.network import Network
from r3mes.node.paper import is_backed_up
from r3mes.node.reload import Reload
from r3mes.node.state import State
from r3mes.node.vault import Vault

Values: TypeAlias = Mapping[tuple[str, ...], float]
"""By the values of the labels."""
Sight: TypeAlias = Mapping[d.Metric, Values]


class Looking(Collector):
    """Gives what `look` last saw.

    Args:
        config: of the node.
        state: says whether it is ready, and what else it is.
        reload: says how the last one went.
        heartbeat: counts its beats.
        vault: says whether the wallet can sign.
        mailboxes: of the actors that have one name for good.
        supervisors: whose children are looked at.
    """

    def __init__(
        self,
        *,
        config: Config,
        state: State,
        reload: Reload,
        heartbeat: Heartbeat,
        vault: Vault,
        store: Store,
        network: Network,
        inference: InferenceClient,
        mailboxes: Iterable[Mailbox[Any]],
        supervisors: Callable[[], Iterable[Supervisor]],
    ) -> None:
        self._config, self._state, self._store = config, state, store
        self._vault, self._reload, self._heartbeat = vault, reload, heartbeat
        self._network, self._inference = network, inference
        self._mailboxes, self._supervisors = tuple(mailboxes), supervisors
        self._started = time.time()
        self._seen: Sight = {}

    async def look(self) -> None:
        """Look at everything, once."""
        try:
            ready = not await self._state.not_ready()
        except R3mesError:  # a part does not answer
            ready = False
        self._seen = {
            d.BUILD_INFO: {(version("r3mes"), sys.version.split()[0], _torch()): 1},
            d.START_TIME: {(): self._started},
            d.READY: {(): ready},
            d.STATE: {(self._state.word(ready=ready),): 1},
            d.WARNINGS: {(name,): 1 for name in self._state.warnings()},
            d.RELOAD_OK: {(): self._reload.last_ok},
            d.RELOAD_AT: {(): self._reload.last_at_ms / 1000},
            d.WATCHDOG_PINGS: {(): self._heartbeat.beats},
            **self._supervision(),
            **self._models(),
            **self._storage(),
            d.PEERS: {("direct",): len(self._network.connected())},
            d.DIALS: {("tcp", outcome): n for outcome, n in self._network.dials.items()},
            d.WALLET_LOCKED: {(): not self._vault.is_open},
            d.WALLET_BACKED_UP: {(): is_backed_up(self._config, self._config.wallet.name)},
        }

    def _supervision(self) -> Sight:
        children = [child for each in self._supervisors() for child in each.statistics()]
        boxes = [box.statistics() for box in self._mailboxes]
        return {
            d.CHILD_READY: _by_name(children, _is_ready),
            d.CHILD_RESTARTS: _by_name(children, lambda child: child.restarts),
            d.MAILBOX_DEPTH: {(box.name,): box.depth for box in boxes},
            d.MAILBOX_PEAK: {(box.name,): box.peak for box in boxes},
            d.MAILBOX_RECEIVED: {(box.name,): box.received for box in boxes},
            d.MAILBOX_REFUSED: {(box.name,): box.refused for box in boxes},
        }

    def _models(self) -> Sight:
        boards = self._inference.boards()
        return {
            d.MODELS_LOADED: {(): sum(board.state == "ready" for board in boards.values())},
            d.RUNNING: {(name,): board.running for name, board in boards.items()},
            d.WAITING: {(name,): board.waiting for name, board in boards.items()},
            d.MODEL_LOAD: {
                (name,): board.load_s for name, board in boards.items() if board.load_s is not None
            },
            d.MODEL_MEMORY: {
                (name,): _resident(board.pid) for name, board in boards.items() if board.pid
            },
            **_used(boards),
            d.ENGINE_RESTARTS: {
                (name, reason): lost
                for name, board in boards.items()
                for reason, lost in board.losses.items()
            },
        }

    def _storage(self) -> Sight:
        return {
            d.WRITABLE: {(): self._store.problem() is None},
            d.DB_SIZE: {(): self._store.size_bytes()},
            d.BACKUP_LAST: {(): last_backup(self._store.datadir) or 0.0},
            d.DISK_FREE: {(): _free(self._store.datadir)},
        }

    def describe(self) -> Iterable[Family]:
        return [_family(m) for m in d.DECLARED.values() if m.looked_at]

    def collect(self) -> Iterable[Family]:
        for metric in d.DECLARED.values():
            if metric.looked_at:
                family = _family(metric)
                for labels, value in self._seen.get(metric, {}).items():
                    family.add_metric(labels, value)
                yield family


def _family(metric: d.Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(metric.name, metric.meaning, labels=metric.labels)


def _by_name(
    children: Iterable[ChildStatistics], value: Callable[[ChildStatistics], float]
) -> Values:
    return {(child.name,): value(child) for child in children}


def _is_ready(child: ChildStatistics) -> bool:
    return child.state is ChildState.READY


def _used(boards: Mapping[str, Board]) -> Sight:
    told = {(name,): board.used for name, board in boards.items() if board.used}
    return {
        d.KV_BYTES: {name: used.kv_bytes for name, used in told.items()},
        d.PROMPT_TOKENS: {name: used.prompt_tokens for name, used in told.items()},
        d.CACHED_TOKENS: {name: used.cached_tokens for name, used in told.items()},
    }


def _torch() -> str:
    """The installed version; not imported, which would take seconds."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0  # it has just gone
    return pages * os.sysconf("SC_PAGESIZE")


def _free(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
