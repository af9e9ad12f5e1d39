"""The network: ports, and whether others reach us."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from r3mes.node.doctor.finding import Finding, Subject

LISTENS = "0A"
"""TCP_LISTEN, as the tables write it."""


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
            what = f"{address}: {why}{holder(int(address.rpartition(':')[2]))}"
            do = "stop the program that listens there, or choose another port"
            return Finding("Ports", "fail", what, do)
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


def holder(port: int) -> str:
    """Who listens on ``port``, as ``, by python3 (pid 7)``; empty if this user may not know."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) in sockets:
                name = (link.parent.parent / "comm").read_text().strip()
                return f", by {name} (pid {link.parent.parent.name})"
        except OSError:  # of another user, or gone meanwhile
            continue
    return ""


def _listening(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen on ``port``.  Source: proc(5), /proc/net/tcp."""
    for table in Path("/proc/net").glob("tcp*"):  # no tcp6 where there is no IPv6
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
