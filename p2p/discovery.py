"""Finding the first peers: those of the configuration, and those on the same LAN.

LAN discovery is multicast DNS under a name of our own, off unless the operator wants it.  What
comes in is a stranger's word: only addresses of private networks are passed on, and the dial checks
who answers there.

Source: libp2p specification, discovery/mdns (private networks: ``_p2p-X._udp.local``); RFC 6762
through the library zeroconf, which runs in a thread of its own.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from r3mes.errors import ConfigError, NetworkError
from r3mes.ids import PeerId
from r3mes.p2p.addresses import is_loopback, parse_peer_address, reachable

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, ServiceStateChange, Zeroconf

logger = logging.getLogger(__name__)

SERVICE: Final = "_p2p-r3mes._udp.local."
PEERS_CAP, ADDRESSES_CAP = 256, 8
"""Most peers that are remembered, and addresses that are taken from one."""
ANSWER_MS = 3000
"""How long a peer that was seen has to tell its addresses."""


def bootstrap_peers(texts: Sequence[str]) -> dict[PeerId, list[str]]:
    """The configured peers with all addresses of each, in order.

    Raises:
        ConfigError: an entry is no full address of a peer.
    """
    peers: dict[PeerId, list[str]] = {}
    for text in texts:
        try:
            address = parse_peer_address(text.strip())
        except ConfigError as error:
            raise ConfigError(f"p2p.bootstrap: {error.detail}", do=error.do) from error
        peers.setdefault(address.peer, []).append(str(address))
    return peers


@asynccontextmanager
async def lan_discovery(
    peer: PeerId, addrs: Sequence[str]
) -> AsyncIterator[trio.MemoryReceiveChannel[tuple[str, ...]]]:
    """Announce this node on the LAN while the block runs, and yield the peers that are seen.

    Args:
        peer: who this node is; not reported back to it.
        addrs: its full addresses; ``0.0.0.0`` and ``::`` stand for every address of the machine.

    Yields:
        a channel of the addresses of one peer each; news that nobody takes is dropped.

    Raises:
        OSError: no multicast on this machine.
        NetworkError: somebody on the LAN has this node's name.
    """
    from zeroconf import NonUniqueNameException, ServiceBrowser, Zeroconf

    send, receive = trio.open_memory_channel[tuple[str, ...]](PEERS_CAP)
    listener = _Listener(peer, send, trio.lowlevel.current_trio_token())
    zeroconf = await trio.to_thread.run_sync(Zeroconf)
    try:
        info = _announcement(peer, addrs)
        try:
            await trio.to_thread.run_sync(zeroconf.register_service, info)
        except NonUniqueNameException as error:
            raise NetworkError(f"another machine claims the name {info.name}") from error
        browser = await trio.to_thread.run_sync(
            lambda: ServiceBrowser(zeroconf, SERVICE, handlers=[listener.heard])
        )
        yield receive
        await trio.to_thread.run_sync(browser.cancel)
    finally:
        listener.closed = True
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(zeroconf.close)
        send.close()
        receive.close()


def _announcement(peer: PeerId, addrs: Sequence[str]) -> ServiceInfo:
    from zeroconf import ServiceInfo

    texts = [text for addr in addrs for text in _on_this_machine(addr)][:ADDRESSES_CAP]
    txt = b"".join(
        len(entry).to_bytes(1, "big") + entry
        for entry in (f"dnsaddr={text}".encode() for text in texts)
    )
    host = str(peer)[-32:].lower()
    addresses = [ipaddress.ip_address(text.split("/")[2]).packed for text in texts]
    return ServiceInfo(
        SERVICE,
        f"{host}.{SERVICE}",
        port=int(texts[0].split("/")[4]) if texts else 0,
        properties=txt,
        server=f"{host}.local.",
        addresses=addresses,
    )


def _on_this_machine(addr: str) -> list[str]:
    """``addr`` as others on the LAN can use it; names and loopback left out."""
    address = parse_peer_address(addr)
    return [
        f"{transport}/p2p/{address.peer}"
        for transport in reachable(address.transport)
        if transport.startswith("/ip") and not is_loopback(transport)
    ]


class _Listener:
    """Hears the LAN in zeroconf's thread and passes new peers to trio."""

    def __init__(
        self,
        own: PeerId,
        news: trio.MemorySendChannel[tuple[str, ...]],
        token: trio.lowlevel.TrioToken,
    ) -> None:
        self._own, self._news, self._token = own, news, token
        self._seen: set[tuple[str, ...]] = set()
        self.closed = False

    def heard(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change.name == "Removed" or self.closed:
            return
        info = zeroconf.get_service_info(service_type, name, timeout=ANSWER_MS)
        addrs = told_addresses(info.text or b"", self._own) if info else ()
        if addrs and addrs not in self._seen and len(self._seen) < PEERS_CAP:
            self._seen.add(addrs)
            self._token.run_sync_soon(self._pass_on, addrs)

    def _pass_on(self, addrs: tuple[str, ...]) -> None:
        try:
            self._news.send_nowait(addrs)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            logger.debug("nobody takes the news of a peer on the LAN")


def told_addresses(txt: bytes, own: PeerId) -> tuple[str, ...]:
    """The usable addresses in a TXT record, all of one peer that is not ``own``."""
    found: list[str] = []
    peer = None
    while txt and len(found) < ADDRESSES_CAP:
        entry, txt = txt[1 : 1 + txt[0]], txt[1 + txt[0] :]
        key, _, value = entry.partition(b"=")
        try:
            address = parse_peer_address(value.decode("ascii"))
        except (ConfigError, UnicodeDecodeError):
            continue
        _, kind, host, *_ = address.transport.split("/")
        if key != b"dnsaddr" or address.peer == own or peer not in (None, address.peer):
            continue
        if kind.startswith("ip") and _of_a_lan(host):
            peer = address.peer
            found.append(str(address))
    return tuple(found)


def _of_a_lan(host: str) -> bool:
    """A private address of another machine: ours have services that trust whoever calls."""
    ip = ipaddress.ip_address(host)
    return ip.is_private and not (ip.is_loopback or ip.is_unspecified)
