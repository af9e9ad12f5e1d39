"""Builds and opens a host.

TCP, Noise and yamux only: the stock default also takes plaintext, where anybody who knows a public
key can be that peer.

Source: libp2p specifications (connections, noise, yamux, multistream-select); left out: QUIC,
WebSocket, relay, DHT and pubsub.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import cast

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.swarm import Swarm
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager, new_resource_manager
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from r3mes.errors import PortInUse
from r3mes.p2p.addresses import check_transport, listen_address, multiaddr, reachable
from r3mes.p2p.host.host import Host
from r3mes.p2p.host.unwelcome import Banned, nobody, turn_away
from r3mes.p2p.identity import NodeKey
from r3mes.p2p.limits import HostLimits
from r3mes.p2p.ports import hold_port
from r3mes.p2p.repairs import layer
from r3mes.p2p.repairs.inbound_gate import InboundGate
from r3mes.p2p.unwrap import single

logger = logging.getLogger(__name__)

CLOSE_S = 5.0
"""How long closing a host may take."""
DEFAULT_LIMITS = HostLimits()
OTHER_DESCRIPTORS = 256
"""For all that is not a connection to a peer."""
PER_PEER = 8
"""Connections with one peer: two nodes that dial each other at once have two."""


@asynccontextmanager
async def open_host(
    key: NodeKey,
    *,
    listen: Sequence[str],
    announce: Sequence[str] = (),
    limits: HostLimits = DEFAULT_LIMITS,
    banned: Banned = nobody,
) -> AsyncIterator[Host]:
    """A host that listens while the block runs; its connections are closed with it.

    Args:
        key: who this node is.
        listen: ``HOST:PORT`` (an IP; port 0 = any) or ``/ip4/HOST/tcp/PORT``.
        announce: ``/ip4|ip6|dns4/HOST/tcp/PORT``: where others reach us, when that is not where
            we listen (behind a port forwarding, or listening on 0.0.0.0).
        limits: how much it takes on.
        banned: who gets no connection.

    Raises:
        PortInUse: an address is taken, or is not one of this machine.
        ConfigError: an address makes no sense.
    """
    layer.apply()
    _quiet_libp2p()
    _want_descriptors(limits)
    listen_at = [listen_address(text) for text in listen]
    for text in announce:
        check_transport(text, text)
    with ExitStack() as stack:
        for host, port in listen_at:
            stack.enter_context(hold_port(host, port))
        basic_host = _build(key, announce, limits)
        swarm = cast(Swarm, basic_host.get_network())
        turn_away(swarm, banned)
        InboundGate(swarm, limits, banned)
        try:
            async with basic_host.run([Multiaddr(multiaddr(*at)) for at in listen_at]):
                try:
                    _assert_listening(swarm, listen_at)
                    addresses = _addresses(basic_host, key)
                    yield Host(basic_host, key.peer_id, addresses, limits, banned)
                finally:
                    with trio.move_on_after(CLOSE_S, shield=True):
                        await basic_host.close()
        except ExceptionGroup as group:  # libp2p's nurseries wrap what the block raises
            raise single(group) from None


def _build(key: NodeKey, announce: Sequence[str], limits: HostLimits) -> BasicHost:
    keys = create_new_key_pair(key.seed)
    noise = NoiseTransport(keys, noise_privkey=create_noise_key_pair().private_key)
    most = limits.connections + limits.dials
    host = new_host(
        key_pair=keys,
        sec_opt={TProtocol(NOISE): noise},
        muxer_opt={TProtocol(YAMUX): Yamux},
        addrs_factory=partial(_advertised, announce),
        connection_config=ConnectionConfig(
            max_connections=most,
            high_watermark=most,
            low_watermark=0,
            min_connections=0,
            max_connections_per_peer=PER_PEER,
            inbound_upgrade_timeout=2 * limits.handshake_s,  # the gate's deadline comes first
        ),
        resource_manager=_resource_manager(limits),
    )
    swarm = cast(Swarm, host.get_network())
    swarm.retry_config = RetryConfig(max_retries=0)  # who dials decides about repetitions
    return cast(BasicHost, host)


def _resource_manager(limits: HostLimits) -> ResourceManager:
    """P13: the stock manager allows 256 connections each way, whatever is configured."""
    most = limits.connections + limits.dials
    return new_resource_manager(
        limits=ResourceLimits(max_connections=2 * most, max_memory_mb=4096, max_streams=20_000),
        connection_limits=ConnectionLimits(
            max_pending_inbound=limits.pending,
            max_pending_outbound=limits.dials,
            max_established_inbound=limits.connections,
            max_established_outbound=limits.dials,
            max_established_per_peer=PER_PEER,
            max_established_total=most,
        ),
        enable_metrics=False,
        enable_memory_limits=False,
        enable_memory_pooling=False,
        enable_circuit_breaker=False,
        enable_graceful_degradation=False,
    )


def _assert_listening(swarm: Swarm, listen_at: Sequence[tuple[str, int]]) -> None:
    """libp2p reports a failed listen only in its log."""
    for host, port in listen_at:
        listener = swarm.listeners.get(str(Multiaddr(multiaddr(host, port))))
        if listener is None or not listener.get_addrs():
            raise PortInUse(f"cannot listen on {host} port {port}")


def _advertised(announce: Sequence[str], candidates: Sequence[Multiaddr]) -> list[Multiaddr]:
    """What peers are told: as configured, or where we listen (stock tells them 0.0.0.0)."""
    if announce:
        return [Multiaddr(text) for text in announce]
    transports = (str(candidate).partition("/p2p/")[0] for candidate in candidates)
    return [Multiaddr(text) for transport in transports for text in reachable(transport)]


def _addresses(host: BasicHost, key: NodeKey) -> list[str]:
    return [f"{str(addr).partition('/p2p/')[0]}/p2p/{key.peer_id}" for addr in host.get_addrs()]


def _want_descriptors(limits: HostLimits) -> None:
    """A connection costs a file descriptor; raise the soft limit as far as the hard one allows."""
    needed = limits.connections + limits.dials + limits.pending + OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    if allowed < needed:
        logger.warning("only %d file descriptors where %d may be needed", allowed, needed)


class _AsDebug(logging.Handler):
    """libp2p's warnings as lines of ours that only a debugging operator sees."""

    def emit(self, record: logging.LogRecord) -> None:
        logger.debug("%s: %s", record.name, record.getMessage())


def _quiet_libp2p() -> None:
    """Strangers' misbehaviour is not our warning: libp2p logs 5000 lines in 5 minutes of it."""
    libp2p = logging.getLogger("libp2p")
    if not any(isinstance(handler, _AsDebug) for handler in libp2p.handlers):
        libp2p.handlers[:] = [_AsDebug()]
        libp2p.propagate = False
        libp2p.setLevel(logging.WARNING)
        # This module logs to the root logger, which then gets a handler if it has none.
        swarm_connection.logging = logging.getLogger("libp2p.network.connection")  # type: ignore[assignment, attr-defined]
