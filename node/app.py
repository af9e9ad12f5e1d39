"""The composition root: builds every part of the node and gives each what it needs of the others.

The tree is drawn in ``docs/architecture.md``.  Nothing here has logic of its own beyond wiring.
"""

from __future__ import annotations

import gc
import os
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from random import Random

import trio
from prometheus_client import CollectorRegistry

from r3mes.actors.active import Active
from r3mes.actors.bans import Bans
from r3mes.actors.doorway import Doorway
from r3mes.actors.gateway import Gateway
from r3mes.actors.inference.actor import ModelActor
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.embedding.actor import EmbeddingActor
from r3mes.actors.inference.embedding.client import EmbeddingClient
from r3mes.actors.inference.pressure import Pressure
from r3mes.actors.inference.pulls import Job, Pulls
from r3mes.actors.kernel.canary import Canary
from r3mes.actors.kernel.child import ChildSpec, Restart
from r3mes.actors.kernel.mailbox import Mailbox
from r3mes.actors.kernel.supervisor import Strategy, Supervisor
from r3mes.actors.keyring import Keyring
from r3mes.actors.ledger import Ledger
from r3mes.actors.observing import Event
from r3mes.actors.requests.binding import bind, verify_binding
from r3mes.actors.requests.envelope import RequestVerifier
from r3mes.actors.requests.replay import ReplayGuard
from r3mes.actors.router import Message as RouterMessage
from r3mes.actors.router import Router, RouterClient
from r3mes.actors.semantic.router import SemanticRouter
from r3mes.actors.serving import Serving
from r3mes.actors.store import Store
from r3mes.actors.tracing import NO_TRACER, Tracer
from r3mes.config.load import embedding_name, served_name
from r3mes.config.schema import Config, Otel
from r3mes.errors import (
    DataDirLocked,
    NotReady,
    PortInUse,
    StoreCorrupt,
    StoreNewer,
)
from r3mes.ids import PeerId
from r3mes.node import lifecycle, logs
from r3mes.node.adapters import Adapters
from r3mes.node.auto import AutoGateway, plan_of
from r3mes.node.catalogue import Catalogue
from r3mes.node.clock import ClockWatch, now_ms
from r3mes.node.doctor.finding import Subject
from r3mes.node.doors import Doors
from r3mes.node.earnings import Earnings
from r3mes.node.embedding import OwnEmbeddings, embedding_settings
from r3mes.node.ending import Stop
from r3mes.node.estimates import Estimates
from r3mes.node.events import Events
from r3mes.node.heartbeat import Heartbeat
from r3mes.node.http.app import build_admin_app, build_app
from r3mes.node.http.child import HttpChild
from r3mes.node.http.guards import Allowed
from r3mes.node.http.rates import Rates
from r3mes.node.jobs import Jobs, hub_of, job_shown, library_of, served_sources
from r3mes.node.lan import Lan
from r3mes.node.logs.levels import LogLevels
from r3mes.node.logs.ring import RECENT
from r3mes.node.metrics.counting import Counting
from r3mes.node.metrics.looking import Looking
from r3mes.node.metrics.page import build_page
from r3mes.node.models import OwnModels
from r3mes.node.network import Network
from r3mes.node.peers import Peers
from r3mes.node.placing import placed_settings
from r3mes.node.recent import Recent
from r3mes.node.reload import Reload
from r3mes.node.routes import Routes
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.methods.config import ConfigMethods
from r3mes.node.rpc.methods.db import DbMethods
from r3mes.node.rpc.methods.diag import DiagMethods
from r3mes.node.rpc.methods.diag_bundle import DiagBundle
from r3mes.node.rpc.methods.earn import EarnMethods
from r3mes.node.rpc.methods.infer import InferMethods
from r3mes.node.rpc.methods.infer_embed import InferEmbed
from r3mes.node.rpc.methods.infer_stream import InferStream
from r3mes.node.rpc.methods.key import KeyMethods
from r3mes.node.rpc.methods.model import ModelMethods
from r3mes.node.rpc.methods.model_adapters import ModelAdapters
from r3mes.node.rpc.methods.model_jobs import ModelJobs
from r3mes.node.rpc.methods.net import NetMethods
from r3mes.node.rpc.methods.node import NodeMethods
from r3mes.node.rpc.methods.node_control import NodeControl
from r3mes.node.rpc.methods.node_events import NodeEvents
from r3mes.node.rpc.methods.route import RouteMethods
from r3mes.node.rpc.methods.wallet import WalletMethods
from r3mes.node.running import Running, read_running, remove_running, write_running
from r3mes.node.state import State
from r3mes.node.summary import Summary
from r3mes.node.systemd import notify, watchdog_seconds
from r3mes.node.tasks import Tasks, running_tasks
from r3mes.node.vault import Vault
from r3mes.node.watching import Watching
from r3mes.p2p.discovery import bootstrap_peers
from r3mes.p2p.identity import NodeKey
from r3mes.p2p.protocols.infer import Hello

UNWATCHED_S = 60.0
"""The patience that stands for systemd's where it does not watch."""
STORE_START_S = 900.0
"""Opening the store checks the whole file, and may migrate it."""

ROUTING = ("routing.outside", "routing.outside_held_out", "routing.most_wrong")
RATES = ("limits.rpm_per_key", "limits.rpm_per_address", "limits.auth_failures_per_address")

ADMIN_SOCKET = "admin.sock"
"""In the data directory, if `api.admin_socket` names no other place."""

ADMIN_DRAIN_S = 2.0


class Node:
    """All parts of a node, wired; `root` runs them.

    Args:
        reload: the configuration, and what changes in it later.
        key: the node's identity between nodes.
        vault: signs requests, answers and receipts, once it is open.
        on_ready: called each time the whole tree is up.
        tracer: keeps traces of requests.
    """

    def __init__(
        self,
        reload: Reload,
        key: NodeKey,
        vault: Vault,
        on_ready: Callable[[Running], None],
        tracer: Tracer = NO_TRACER,
    ) -> None:
        config = reload.config
        self._tracer = tracer
        self._config, self.reload = config, reload
        self.vault, self._on_ready = vault, on_ready
        self._random = Random(secrets.randbits(64))  # noqa: S311  jitter and load sharing
        registry = CollectorRegistry()
        self._counting = Counting(registry, _names(config))
        self._recent = Recent()
        self.store = Store(config.node.datadir, on_commit=self._counting.committed)
        self.keyring = Keyring(self.store, now_ms=now_ms)
        self.ledger = Ledger(self.store, now_ms=now_ms)
        self.pulls = Pulls(library_of(config), hub_of(config), tell=self._tell_job)
        self._actors = [
            ModelActor(settings, fetch=self.pulls.pulled) for settings in placed_settings(config)
        ]
        self.inference = InferenceClient(self._actors)
        settings = embedding_settings(config)
        self._embedding_actor = (
            EmbeddingActor(settings, fetch=self.pulls.pulled) if settings else None
        )
        self._models = OwnModels(config.models, config.adapters, self.inference)
        self._epoch, self._key, self._binding = secrets.token_bytes(8), key, b""
        self.active = Active()
        self._peers_door = Doorway("requests of peers", self._admit_peer)
        self._api_door = Doorway("requests", vault.admit)
        self._doors = Doors([self._api_door, self._peers_door])
        self.bans = Bans(self.store, own=key.peer_id, now_ms=now_ms)
        self.network = Network(
            key,
            listen=config.p2p.listen,
            announce=config.p2p.announce,
            service=self._serving(key.peer_id),
            banned=self.bans.holds,
        )
        self._router_mailbox: Mailbox[RouterMessage] = Mailbox("router", 1024)
        self.router = RouterClient(self._router_mailbox)
        self.canary = Canary(on_wake=self._counting.woke)
        self.clock = ClockWatch()
        self.peers = Peers(self.network, self.router, self.bans)
        self.earnings = Earnings(self.ledger, key.peer_id, now_ms=now_ms)
        self._summary = Summary(self.inference, self.network, self.earnings)
        self.state = State(
            reload=reload,
            clock=self.clock,
            vault=vault,
            store=self.store,
            network=self.network,
            inference=self.inference,
            router=self.router,
            canary=self.canary,
            peers=self.peers,
            recent=self._recent,
            earnings=self.earnings,
            doors=self._doors,
        )
        self.log_levels = LogLevels()
        self.events = Events(now_ms=now_ms)
        self.watching = Watching(
            self.events, status=self.state.status, peers=self.router.peers, logs=logs.RECENT
        )
        self.stop = Stop()
        self._routes = Routes(key.peer_id, vault.address, self._models, self.router)
        self._gateway = self._gateway_of()
        client = EmbeddingClient(self._embedding_actor) if self._embedding_actor else None
        self._semantic = SemanticRouter(client, plan_of(config))
        self._auto = AutoGateway(self._gateway, self._semantic, lambda: reload.config)
        self._embeddings = self._embeddings_of()
        self._rates = Rates(config.limits)
        self.rpc = self._rpc()
        self._allowed = Allowed(config.api.allowed_hosts, config.api.allowed_origins)
        self.api = self._api()
        self.admin = self._admin()
        self.heartbeat = Heartbeat(
            {"store": self.store.answers, "p2p": self.network.knock, "http": self.api.answers},
            interval=(watchdog_seconds() or UNWATCHED_S) / 2,
            beat=lambda: notify("WATCHDOG=1"),
        )
        self.metrics = HttpChild(
            build_page(registry, self._looking(), listen=config.metrics.listen),
            listen=config.metrics.listen,
            drain_seconds=0.0,
            key="metrics.listen",
        )
        self.work, self.surface = self._work(), self._surface()
        self._follow_changes()
        self.root = Supervisor(
            "root", self._children(), strategy=Strategy.REST_FOR_ONE, intensity=3, period=60.0
        )

    def _follow_changes(self) -> None:
        """What of the configuration may change while the node runs, and who takes it over."""
        live = self.reload.live
        live("log.level", lambda config: self.log_levels.configure(config.log.level))
        live("log.format", _write_log)
        for key in ("api.allowed_hosts", "api.allowed_origins"):
            live(key, self._allow)
        for key in RATES:
            live(key, self._limit_rates)
        live("limits.queue", self._let_wait)
        live("wallet.max_price_uremes", self._limit_price)
        for key in ("routes", *ROUTING):
            live(key, lambda config: self._semantic.follow(plan_of(config)))
        live("routing.default", lambda config: None)  # looked up with every prompt
        live("models", lambda config: self._models.price(config.models))

    def _allow(self, config: Config) -> None:
        self._allowed.allow(config.api.allowed_hosts, config.api.allowed_origins)

    def _limit_rates(self, config: Config) -> None:
        self._rates.limits = config.limits

    def _let_wait(self, config: Config) -> None:
        for actor in self._actors:
            actor.board.admission.depth = config.limits.queue

    def _limit_price(self, config: Config) -> None:
        self._gateway.max_price = config.wallet.max_price_uremes

    def _observe(self, event: Event) -> None:
        self._counting.observe(event)
        self._recent.observe(event)
        self.watching.observe(event)
        self._summary.observe(event)

    def _tell_job(self, job: Job) -> None:
        self.events.publish("jobs", job_shown(job))

    def _hello(self) -> Hello:
        """While the wallet is locked nobody vouches for this node, and it offers nothing."""
        offers = self._models.offers() if self.vault.is_open else ()
        if self.vault.is_open and not self._binding:
            self._binding = bind(self.vault, self._key)
        return Hello(self._epoch, self._binding, offers, self._config.node.chain_id)

    def _admit_peer(self) -> None:
        if not self.vault.is_open:
            raise NotReady("this node's wallet is locked")

    def _serving(self, own: PeerId) -> Serving:
        verifier = RequestVerifier(
            chain=self._config.node.chain_id,
            audience=own,
            epoch=self._epoch,
            models=lambda model: any(offer.hash == model for offer in self._models.offers()),
            now_ms=now_ms,
            guard=ReplayGuard(now_ms),
        )
        return Serving(
            own=own,
            hello=self._hello,
            verifier=verifier,
            engine=self._models,
            ledger=self.ledger,
            wallet=self.vault,
            now_ms=now_ms,
            doorway=self._peers_door,
            active=self.active,
            tell=self._observe,
            tracer=self._tracer,
        )

    def _rpc(self) -> Dispatcher:
        config, own, inference = self._config, self.network.peer_id, self.inference
        catalogue = Catalogue(config.models, own, inference, self._routes, self._models.prices_of)
        estimates = Estimates(
            own, self._routes, inference, max_price=lambda: self._gateway.max_price
        )
        control = NodeControl(
            doors=self._doors,
            drain_seconds=config.limits.drain_seconds,
            tasks=self._tasks,
            log_levels=self.log_levels,
            reload=self.reload.reload,
            stop=self.stop,
        )
        return Dispatcher(
            NodeMethods(self.state),
            control,
            NodeEvents(self.events),
            NetMethods(self.peers),
            ModelMethods(catalogue, drain_seconds=config.limits.drain_seconds),
            ModelAdapters(Adapters(inference), drain_seconds=config.limits.drain_seconds),
            ModelJobs(Jobs(self.pulls, served_sources(config))),
            InferMethods(self._auto, self.active, estimates),
            InferStream(self._auto),
            InferEmbed(self._auto, self._embeddings),
            RouteMethods(self._auto, self._semantic, self.reload),
            WalletMethods(config, self.vault),
            EarnMethods(self.earnings),
            KeyMethods(self.keyring, self.ledger),
            DbMethods(self.store, lambda: self.reload.loaded),
            DiagMethods(RECENT, self._subject),
            DiagBundle(
                status=self.state.status,
                tasks=self._tasks,
                ring=RECENT,
                loaded=lambda: self.reload.loaded,
            ),
            ConfigMethods(self.reload),
            called=self._counting.called,
        )

    def _tasks(self) -> Tasks:
        return running_tasks(self.root, self.canary)

    def _subject(self) -> Subject:
        """This node, for the doctor."""
        loaded = self.reload.loaded
        return Subject(loaded.config, loaded.file, running=read_running(loaded.config.node.datadir))

    def _gateway_of(self) -> Gateway:
        return Gateway(
            own=self.network.peer_id,
            connect=self.network.connect,
            routes=self._routes,
            wallet=self.vault,
            ledger=self.ledger,
            chain_id=self._config.node.chain_id,
            max_price=self._config.wallet.max_price_uremes,
            now_ms=now_ms,
            doorway=self._api_door,
            active=self.active,
            tell=self._observe,
            tracer=self._tracer,
        )

    def _embeddings_of(self) -> OwnEmbeddings:
        actor = self._embedding_actor
        return OwnEmbeddings(
            EmbeddingClient(actor) if actor else None,
            shortens=self._config.embedding.shortens,
            doorway=self._api_door,
            active=self.active,
            tell=self._observe,
            tracer=self._tracer,
        )

    def _api(self) -> HttpChild:
        api = self._config.api
        app = build_app(
            gateway=self._auto,
            keyring=self.keyring,
            state=self.state,
            rpc=self.rpc,
            stopping=self._doors.stopped,
            max_body_bytes=api.max_body_bytes,
            allowed=self._allowed,
            rates=self._rates,
            key_file=api.key_file,
            heard=self._counting.answered,
            tracer=self._tracer,
            embeddings=self._embeddings,
        )
        return HttpChild(
            app,
            listen=api.listen,
            drain_seconds=self._config.limits.drain_seconds,
            doors=self._doors,
        )

    def _looking(self) -> Looking:
        return Looking(
            config=self._config,
            state=self.state,
            reload=self.reload,
            heartbeat=self.heartbeat,
            vault=self.vault,
            store=self.store,
            network=self.network,
            inference=self.inference,
            mailboxes=[
                self.store.mailbox,
                self._router_mailbox,
                *(actor.mailbox for actor in self._actors),
                *([self._embedding_actor.mailbox] if self._embedding_actor else []),
            ],
            supervisors=lambda: (self.root, self.work, self.surface),
        )

    def _admin(self) -> HttpChild:
        app = build_admin_app(
            gateway=self._auto,
            state=self.state,
            rpc=self.rpc,
            stopping=self._doors.stopped,
            max_body_bytes=self._config.api.max_body_bytes,
            tracer=self._tracer,
            embeddings=self._embeddings,
        )
        path = self._config.api.admin_socket or self._config.node.datadir / ADMIN_SOCKET
        return HttpChild(app, listen=f"unix:{path.absolute()}", drain_seconds=ADMIN_DRAIN_S)

    def _children(self) -> list[ChildSpec]:
        broken = (StoreCorrupt, StoreNewer, DataDirLocked)
        store, network = self.store, self.network
        return [
            ChildSpec(
                "store",
                store.run,
                intake=store.mailbox,
                fatal=broken,
                ready_timeout=STORE_START_S,
            ),
            ChildSpec("ledger", self._forget_dead_jobs),
            ChildSpec("bans", self._load_bans, Restart.TRANSIENT),
            ChildSpec("p2p", network.run, fatal=(PortInUse,), stop_timeout=8.0),
            self.work.as_child(),
            self.surface.as_child(),
            ChildSpec("announcement", self._announce),
        ]

    def _work(self) -> Supervisor:
        models = [
            ChildSpec(f"inference.{actor.settings.name}", actor.run, intake=actor.mailbox)
            for actor in self._actors
        ]
        if embedding := self._embedding_actor:
            models.append(ChildSpec("embedding", embedding.run, intake=embedding.mailbox))
        pulls = ChildSpec("pulls", self.pulls.run)
        memory = ChildSpec("memory", Pressure(self.inference).run)
        router = ChildSpec("router", self._route, intake=self._router_mailbox)
        semantic = ChildSpec("semantic", self._semantic.run)
        canary = ChildSpec("canary", self.canary.run)
        summary = ChildSpec("summary", self._summary.run)
        levels = ChildSpec("log-levels", self.log_levels.run)
        watching = ChildSpec("events", self.watching.run)
        lan = [ChildSpec("lan", Lan(self.network).run)] if self._config.p2p.lan_discovery else []
        clock = ChildSpec("clock", self.clock.run)
        return Supervisor(
            "work",
            [
                pulls,
                *models,
                memory,
                router,
                semantic,
                *lan,
                canary,
                clock,
                levels,
                watching,
                summary,
            ],
        )

    def _surface(self) -> Supervisor:
        """What answers programs; admin socket and metrics also while the API drains."""
        drain_s = self._config.limits.drain_seconds
        servers = {"admin": (self.admin, 5.0), "http": (self.api, drain_s + 5)}
        if self.metrics.address:
            servers = {"metrics": (self.metrics, 5.0), **servers}
        return Supervisor(
            "surface",
            [
                ChildSpec(name, one.run, intake=one, fatal=(PortInUse,), stop_timeout=stop_s)
                for name, (one, stop_s) in servers.items()
            ],
        )

    async def _route(self, *, task_status: trio.TaskStatus[None]) -> None:
        router = Router(
            self._router_mailbox,
            self.network,
            verify_binding=lambda binding, peer: verify_binding(binding, peer=peer),
            chain_id=self._config.node.chain_id,
            bootstrap=list(bootstrap_peers(self._config.p2p.bootstrap).values()),
            random=self._random,
            banned=self.bans.holds,
        )
        await router.run(task_status=task_status)

    async def _forget_dead_jobs(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Jobs of a process or a store that died may be asked for again.

        It stays, so that it is there to begin anew with a store that restarts.
        """
        await self.ledger.drop_unfinished()
        task_status.started()
        await trio.sleep_forever()

    async def _load_bans(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Before the first peer is let in."""
        await self.bans.load()
        task_status.started()

    async def _announce(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Tell the machine where the node is, as long as it is."""
        datadir = self._config.node.datadir
        running = Running(
            pid=os.getpid(),
            peer_id=self.network.peer_id,
            wallet=self.vault.address,
            api=self.api.address,
            p2p=tuple(self.network.addrs),
            admin=self.admin.address.removeprefix("unix:"),
            metrics=self.metrics.address,
        )
        write_running(datadir, running)
        try:
            task_status.started()
            _freeze()
            self._on_ready(running)
            await trio.sleep_forever()
        finally:
            remove_running(datadir)


def _names(config: Config) -> list[str]:
    """Of models and adapters: what may stand in a label of a metric."""
    adapters = [f"{one.model}:{one.name}" for one in config.adapters]
    embedding = embedding_name(config.embedding)
    return [*map(served_name, config.models), *adapters, *([embedding] if embedding else [])]


def _freeze() -> None:
    """Take what lives as long as the process out of the collector's sight.

    A full collection went over all code and libraries, and stopped the event loop for 100 ms.
    """
    gc.collect()
    gc.freeze()


def _write_log(config: Config) -> None:
    logs.write_as(config.log)


def _tracing(otel: Otel, own: PeerId) -> AbstractAsyncContextManager[Tracer]:
    if otel.endpoint is None:
        return nullcontext(NO_TRACER)
    from r3mes.node.otel import tracing  # here: the library is there only for those who trace

    return tracing(otel, otel.endpoint, own)


def run_node(
    reload: Reload, key: NodeKey, vault: Vault, on_ready: Callable[[Running], None]
) -> int:
    """Run a node until it is told to stop; its result is the exit status of the process.

    Args:
        reload: the configuration, and what changes in it later.
        key: the node's identity between nodes.
        vault: the wallet, opened or not.
        on_ready: called when the node is up, with its addresses.
    """

    async def main() -> int:
        async with _tracing(reload.config.otel, key.peer_id) as tracer:
            node = Node(reload, key, vault, on_ready, tracer)
            handles = lifecycle.Handles(node.state.line, node.heartbeat, reload.reload, node.stop)
            return await lifecycle.serve(
                node.root, drain_timeout=reload.config.limits.drain_seconds, handles=handles
            )

    return lifecycle.run(main)
