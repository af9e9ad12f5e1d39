"""What systemd says to the process, and what it hears."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from r3mes.node import systemd


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.notify("READY=1", "STATUS=serving")
        assert listener.recv(100) == b"READY=1\nSTATUS=serving"
        systemd.notify(systemd.extend(1.5))
        assert listener.recv(100) == b"EXTEND_TIMEOUT_USEC=1500000"
    systemd.notify("READY=1")  # whoever listened has gone
    monkeypatch.delenv("NOTIFY_SOCKET")
    systemd.notify("READY=1")  # nobody to tell


def test_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(b"\0r3mes-test-%d" % os.getpid())
        monkeypatch.setenv("NOTIFY_SOCKET", f"@r3mes-test-{os.getpid()}")
        systemd.notify("READY=1")
        assert listener.recv(100) == b"READY=1"


def test_a_listener_that_does_not_read_does_not_hold_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        for _ in range(2000):
            systemd.notify("STATUS=" + "x" * 500)


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("60000000", "own", 60.0),
        ("60000000", "", 60.0),
        ("60000000", "1", None),
        ("0", "own", None),
        ("soon", "own", None),
        ("", "own", None),
    ],
)
def test_the_watchdog_is_ours_or_not(
    usec: str, pid: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert systemd.watchdog_seconds() == seconds


def test_a_credential_is_a_file_in_the_folder_that_systemd_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert systemd.credential("wallet-passphrase") is None
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert systemd.credential("wallet-passphrase") is None
    (tmp_path / "wallet-passphrase").write_text("secret")
    assert systemd.credential("wallet-passphrase") == tmp_path / "wallet-passphrase"
