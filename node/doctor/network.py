"""The network: ports, and whether others reach us."""

from __future__ import annotations

import socket

from r3mes.node.doctor.finding import Finding, Subject


def ports(subject: Subject) -> Finding:
    """Whether the addresses to listen on are free, or held by our own node."""
    wanted = listen_addresses(subject)
    if subject.running is not None:
        run = subject.running
        held = ", ".join(filter(None, (run.api, *run.p2p, run.metrics)))
        what = f"{held}: held by the node that runs, pid {run.pid}"
        return Finding("Ports", "ok", what)
    for address in wanted:
        if why := not_free(address):
            do = "stop the program that listens there, or choose another port"
            return Finding("Ports", "fail", f"{address}: {why}", do)
    return Finding("Ports", "ok", f"{', '.join(wanted)} are free")


def dial_back(subject: Subject) -> Finding:
    """Whether a peer could dial us."""
    what = "not asked: no peer offers to dial back"
    return Finding("Reachable", "info", what)


def listen_addresses(subject: Subject) -> list[str]:
    """Every ``host:port`` that the node will listen on."""
    config = subject.config
    metrics = [config.metrics.listen] if config.metrics.listen else []
    return [config.api.listen, *config.p2p.listen, *metrics]


def not_free(address: str) -> str:
    """Why nobody can listen on ``address`` (``host:port``); empty if one can."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, place in found:
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(place)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""
