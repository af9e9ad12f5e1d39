"""A whole node for all of the fuzzing, and how many cases there are."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from benchmarks.daemons import Daemon
from r3mes.node.http.server import IDLE_SECONDS

CASES = int(os.environ.get("FUZZ_CASES", "500"))
"""Continuous integration runs 20 000."""


class AdminConnection(http.client.HTTPConnection):
    """HTTP over the admin socket, kept open from case to case."""

    def __init__(self, path: str) -> None:
        super().__init__("node", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


@dataclass
class Node:
    """A node under fire."""

    daemon: Daemon
    pid: int
    admin: AdminConnection = field(init=False)
    used: float = 0.0
    """When the connection was, in seconds of the monotonic clock."""

    def __post_init__(self) -> None:
        self.admin = AdminConnection(self.daemon.running.admin)

    def post(self, body: bytes) -> tuple[int, bytes]:
        if time.monotonic() - self.used > IDLE_SECONDS / 2:
            self.admin.close()  # before the node does, which ends connections that are idle
        self.used = time.monotonic()
        self.admin.request("POST", "/rpc", body)
        answer = self.admin.getresponse()
        return answer.status, answer.read()

    def call(self, name: str) -> Any:
        message = {"jsonrpc": "2.0", "id": 1, "method": name}
        return json.loads(self.post(json.dumps(message).encode())[1])["result"]

    def is_unharmed(self) -> None:
        """It is the process that was started, nothing in it died, and nothing was unforeseen."""
        assert self.daemon.running.pid == self.pid
        tasks = list(self.call("node_tasks")["tasks"])
        for task in tasks:
            tasks += task["children"]
            assert (task["restarts"], task["last_error"]) == (0, None), task
        assert "incident" not in self.daemon.log.read_text()


@pytest.fixture(scope="package")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    daemon = Daemon(
        tmp_path_factory.mktemp("fuzz") / "node",
        limits={"rpm_per_key": 0, "rpm_per_address": 0},
    ).start()
    assert daemon.process is not None
    node = Node(daemon, daemon.process.pid)
    yield node
    node.admin.close()
    daemon.end()
