"""The node as systemd runs it: the unit's command, a socket that listens for what it says."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from benchmarks.daemons import PATIENCE_S, Daemon

pytestmark = pytest.mark.slow
Make = Callable[..., Daemon]
UNIT = Path(__file__).resolve().parents[2] / "systemd" / "r3mes.service"

BLOCKED = """
import os, sys, time, trio
from functools import partial
from r3mes.node import loop_watch
from r3mes.node.__main__ import main

class Blocks(trio.abc.Instrument):
    def before_io_wait(self, timeout):
        while os.path.exists("blocked"):
            time.sleep(1)

loop_watch.PATIENCE_S = 1.0
trio.run = partial(trio.run, instruments=[Blocks()])
main()
"""
"""The node, whose event loop stands still once there is a file of that name."""


class Systemd:
    """What a unit's process is given, and hears from it."""

    def __init__(self, folder: Path) -> None:
        self.address = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.address))
        self._socket.settimeout(PATIENCE_S)
        self.heard: list[str] = []

    def until(self, line: str) -> list[str]:
        """All lines up to the first that begins with ``line``."""
        heard: list[str] = []
        while not any(one.startswith(line) for one in heard):
            heard += self._socket.recv(4096).decode().splitlines()
        self.heard += heard
        return heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    listener = Systemd(tmp_path)
    yield listener
    listener.close()


def settings(name: str) -> list[str]:
    """The values of a setting in the unit."""
    lines = UNIT.read_text().splitlines()
    return [line.removeprefix(f"{name}=") for line in lines if line.startswith(f"{name}=")]


@pytest.fixture
def start(tmp_path: Path, systemd: Systemd, daemon: Make) -> Callable[..., Daemon]:
    """Starts the unit's command on a node of the test's own, with the unit's environment."""

    def start(
        program: str | None = None,
        *,
        locked: bool = False,
        credentials: Path | None = None,
        **config: object,
    ) -> Daemon:
        node = daemon("node", **config)
        secret = node.folder / "wallets" / "default.passphrase"
        if credentials is not None:
            credentials.mkdir()
            secret.rename(credentials / "wallet-passphrase").chmod(
                0o440
            )  # as its access list shows
        elif locked:
            secret.unlink()
        (exec_start,) = settings("ExecStart")
        words = exec_start.replace("/etc/r3mes", str(node.folder)).split()[1:]
        python = [sys.executable, *(["-c", program] if program else ["-m", "r3mes.node"])]
        node.environment = {
            "NOTIFY_SOCKET": str(systemd.address),
            "WATCHDOG_USEC": "1000000",
            "R3MES_NODE__DATADIR": str(node.folder),
            **({"CREDENTIALS_DIRECTORY": str(credentials)} if credentials else {}),
        }
        for pair in shlex.split(settings("Environment")[0]):
            name, _, value = pair.partition("=")
            node.environment[name] = value.replace("/var/cache/r3mes", str(tmp_path / "cache"))
        with node.log.open("ab") as log:
            node.process = subprocess.Popen(
                [*python, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **node.environment},
                cwd=tmp_path,
            )
        return node

    return start


def test_the_unit_starts_the_node_which_says_so_and_drains(
    start: Callable[..., Daemon], systemd: Systemd
) -> None:
    node = start(models=[{"id": "builtin"}])
    before = systemd.until("READY=1")
    assert before[0].startswith("STATUS=starting")
    assert "EXTEND_TIMEOUT_USEC=30000000" in before
    assert "WATCHDOG=1" not in before
    systemd.until("WATCHDOG=1")
    systemd.until("STATUS=serving 1 model, 0 peers, 0 running")
    systemd.until("WATCHDOG=1")
    assert node.get("/healthz").status_code == 200
    node.signal(signal.SIGTERM)
    systemd.until("STOPPING=1")
    assert node.wait() == 0


def test_a_blocked_loop_feeds_no_watchdog_and_exits_with_70(
    start: Callable[..., Daemon], systemd: Systemd, tmp_path: Path
) -> None:
    node = start(BLOCKED)
    systemd.until("READY=1")
    systemd.until("WATCHDOG=1")
    (tmp_path / "blocked").touch()
    assert node.wait() == 70
    said = node.log.read_text()
    assert "the event loop has not turned for 1 s, exit 70" in said
    assert "before_io_wait" in said


def test_a_node_without_a_passphrase_is_up_and_says_that_its_wallet_is_locked(
    start: Callable[..., Daemon], systemd: Systemd
) -> None:
    node = start(locked=True, models=[{"id": "builtin"}])
    systemd.until("STATUS=wallet locked")
    assert "READY=1" in systemd.heard
    assert node.get("/healthz").status_code == 200
    ready = node.get("/readyz")
    assert ready.status_code == 503
    assert "the wallet is locked, `r3mes wallet unlock` opens it" in ready.json()["reasons"]
    with pytest.raises(openai.ConflictError) as refused:
        node.openai(max_retries=0).chat.completions.create(
            model="builtin", messages=[{"role": "user", "content": "?"}]
        )
    assert refused.value.code == "wallet_locked"
    assert node.get("/node/status").json()["wallet"]["locked"]
    systemd.until("WATCHDOG=1")
    node.signal(signal.SIGTERM)
    assert node.wait() == 0


def test_the_credential_of_the_unit_opens_the_wallet(
    start: Callable[..., Daemon], systemd: Systemd, tmp_path: Path
) -> None:
    node = start(credentials=tmp_path / "credentials")
    systemd.until("READY=1")
    assert not node.get("/node/status").json()["wallet"]["locked"]


def test_sighup_takes_over_what_can_be_and_refuses_nonsense(
    start: Callable[..., Daemon], systemd: Systemd
) -> None:
    node = start()
    systemd.until("READY=1")

    def host_is_known() -> bool:
        asked = httpx.get(f"{node.url}/healthz", headers={"host": "node.example"})
        return asked.status_code == 200

    assert not host_is_known()
    node.configure(
        api={"allowed_hosts": ["node.example"]}, limits={"slots": 2}, log={"level": "debug"}
    )
    node.signal(signal.SIGHUP)
    assert "RELOADING=1" in systemd.until("READY=1")
    assert host_is_known()
    said = node.log.read_text()
    assert "changed: api.allowed_hosts, log.level" in said
    assert "a restart is needed for: limits.slots" in said
    assert "limits.slots" in node.get("/node/status").json()["warnings"][0]
    (node.folder / "config.toml").write_text("[api]\nallowed_hosts = 7\n")
    node.signal(signal.SIGHUP)
    systemd.until("READY=1")
    assert "api.allowed_hosts is 7" in node.log.read_text()
    assert host_is_known()
    assert "config check" in node.get("/node/status").json()["warnings"][0]
    assert node.command("config", "check").returncode == 78
    node.signal(signal.SIGTERM)
    assert node.wait() == 0
