"""The command as a whole: what it imports, how it fails, what it says of itself."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from r3mes.node.cli import config

if TYPE_CHECKING:
    from tests.node.cli.conftest import Cli

HEAVY = {"torch", "transformers", "libp2p", "fastapi", "openai", "httpx", "trio"}


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "r3mes.node", *words],
        capture_output=True, text=True, check=False, timeout=30, **options,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["status"], ["health"], ["wallet", "list"]])
def test_light_commands_import_nothing_heavy(tmp_path: Path, words: Sequence[str]) -> None:
    code = (
        "import sys; sys.argv[0] = 'r3mes'\n"
        "from r3mes.node.__main__ import main\n"
        "try: main()\n"
        "finally: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    (tmp_path / "api-key").write_text("r3k_x")
    (tmp_path / "api-key").chmod(0o600)
    command = [sys.executable, "-c", code, "--datadir", str(tmp_path), *words]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    loaded = set(ran.stderr.splitlines()[-1].split())
    assert "r3mes" in loaded
    assert loaded & HEAVY == set()
    assert words == ["wallet", "list"] or "pydantic" not in loaded


@pytest.mark.slow
def test_help_is_quick() -> None:
    """0.3 s on an idle machine; processor time, best of three, so that load does not count."""

    def cost() -> float:
        before = time.process_time(), _children()
        assert run("--help").returncode == 0
        return _children() - before[1]

    assert min(cost() for _ in range(3)) < 0.5


def _children() -> float:
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.slow
def test_no_traceback_but_with_debug(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[api]\nlistn = 1\n")
    ran = run("status", "--datadir", str(tmp_path))
    assert ran.returncode == 78
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("error R3-CONF-001: ")
    ran = run("status", "--datadir", str(tmp_path), "--debug")
    assert "Traceback" in ran.stderr


def test_the_unforeseen(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from r3mes.node.cli import session

    monkeypatch.setattr(session, "load", lambda **_: 1 / 0)
    ran = cli("config", "show")
    assert ran.code == 70
    assert ran.err.startswith("error R3-NODE-001: ZeroDivisionError: division by zero. ")
    assert "--debug" in ran.err


def test_a_full_disk_where_the_output_goes(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(config, "show", full)
    ran = cli("config", "path")
    assert ran.code == 74
    assert ran.err.startswith("error R3-STORE-003: where the output goes: No space left on device")


@pytest.mark.parametrize("words", [["nope"], ["status", "--nope"], ["wallet", "create"]])
def test_usage(cli: Cli, words: Sequence[str]) -> None:
    ran = cli(*words)
    assert ran.code == 2
    assert "Usage: r3mes" in ran.err


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").out.startswith("r3mes 0.1.0 (python 3.")
    text = cli("--help").out
    names = ("init", "run", "chat", "status", "health", "peers", "models", "doctor", "wallet")
    assert [name for name in names if f"\n  {name} " not in text] == []
    assert "..." not in text.partition("Commands:")[2]
