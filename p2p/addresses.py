"""Addresses of peers and of ourselves, as text, without libp2p."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from r3mes.errors import ConfigError
from r3mes.ids import PeerId
from r3mes.p2p.identity import pub_of


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """``/ip4/192.0.2.7/tcp/7330/p2p/12D3KooW…`` taken apart."""

    peer: PeerId
    transport: str

    def __str__(self) -> str:
        return f"{self.transport}/p2p/{self.peer}"


def parse_peer_address(text: str) -> PeerAddress:
    """A full address of a peer.

    Raises:
        ConfigError: not ``/ip4|ip6|dns…/HOST/tcp/PORT/p2p/ID``.
    """
    transport, mark, peer = text.rpartition("/p2p/")
    if not mark:
        raise ConfigError(
            f"{text!r} names no peer", do="write it as /ip4/HOST/tcp/PORT/p2p/PEER_ID"
        )
    check_transport(transport, text)
    try:
        pub_of(PeerId(peer))
    except ValueError as error:
        raise ConfigError(
            f"{peer!r} in {text!r} is not a peer id",
            do="copy the id that the other node prints at its start",
        ) from error
    return PeerAddress(PeerId(peer), transport)


def listen_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, ``[V6]:PORT`` or ``/ip4|ip6/HOST/tcp/PORT``.

    Raises:
        ConfigError: none of these.
    """
    if text.startswith("/"):
        check_transport(text, text)
        _, kind, host, _, port = text.split("/")
        known = kind in ("ip4", "ip6")
    else:
        host, _, port = text.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        known = _is_port(port)
    if not known or not _is_ip(host):
        raise ConfigError(
            f"cannot listen on {text!r}",
            do="write it as HOST:PORT with an IP, such as 0.0.0.0:7330",
        )
    return host, int(port)


def multiaddr(host: str, port: int) -> str:
    """``/ip4/HOST/tcp/PORT`` or its IPv6 kind."""
    return f"/ip{ipaddress.ip_address(host).version}/{host}/tcp/{port}"


def reachable(transport: str) -> list[str]:
    """``transport`` itself, or every address of this machine for ``0.0.0.0`` and ``::``."""
    _, kind, host, _, port = transport.split("/")
    if not kind.startswith("ip") or not ipaddress.ip_address(host).is_unspecified:
        return [transport]
    return [f"/{kind}/{ip}/tcp/{port}" for ip in _own_ips(kind)]


def is_loopback(transport: str) -> bool:
    """Whether only this machine can use ``/ip4|ip6/HOST/tcp/PORT``."""
    return ipaddress.ip_address(transport.split("/")[2]).is_loopback


def _own_ips(kind: str) -> list[str]:
    """This machine's addresses, public ones first, loopback last."""
    import ifaddr

    ips = [ip for adapter in ifaddr.get_adapters() for ip in adapter.ips]
    if kind == "ip4":
        found = [ipaddress.ip_address(str(ip.ip)) for ip in ips if ip.is_IPv4]
    else:  # link-local ones need a scope, which an address on the wire has not
        found = [ipaddress.ip_address(ip.ip[0]) for ip in ips if not ip.is_IPv4]
    usable = [ip for ip in found if not (ip.version == 6 and ip.is_link_local)]
    return [str(ip) for ip in sorted(usable, key=lambda ip: (ip.is_loopback, ip.is_private))]


_PORT_CAP = 65535
_KINDS = ("ip4", "ip6", "dns", "dns4", "dns6")
_NAME_CAP, _LABEL = 253, re.compile(r"[A-Za-z0-9_-]{1,63}")


def check_transport(transport: str, text: str) -> None:
    """Refuse what we cannot dial; ``text`` is what the operator wrote.

    Raises:
        ConfigError: not ``/ip4|ip6|dns…/HOST/tcp/PORT``.
    """
    parts = transport.split("/")
    ok = (
        len(parts) == 5
        and parts[0] == ""
        and parts[1] in _KINDS
        and (_is_ip(parts[2]) if parts[1].startswith("ip") else _is_name(parts[2]))
        and parts[3] == "tcp"
        and _is_port(parts[4])
    )
    if not ok:
        raise ConfigError(
            f"{text!r} is not an address that we can use",
            do="write it as /ip4/HOST/tcp/PORT or /dns4/NAME/tcp/PORT, for a peer with /p2p/ID",
        )


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host  # the zone of a link: it means something on one machine only


def _is_name(host: str) -> bool:
    return len(host) <= _NAME_CAP and all(map(_LABEL.fullmatch, host.rstrip(".").split(".")))


def _is_port(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text) is not None and int(text) <= _PORT_CAP
