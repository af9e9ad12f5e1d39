"""Starts that cannot work, with whole processes: what it says, and the status it exits with."""

from __future__ import annotations

import json
import socket
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.daemons import Daemon, wait

pytestmark = pytest.mark.slow
Make = Callable[..., Daemon]


@pytest.fixture
def idle(daemon: Make) -> Daemon:
    """A node that was set up and does not run."""
    return daemon("node")


def refuses(node: Daemon, status: int, *said: str) -> None:
    ran = node.command("run")
    assert ran.returncode == status, ran.stderr
    for text in said:
        assert text in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_second_node_on_the_same_directory(idle: Daemon) -> None:
    idle.start()
    refuses(idle, 75, "R3-STORE-006", str(idle.running.pid))


@pytest.mark.parametrize("side", ["api", "p2p"])
def test_a_port_that_is_taken(idle: Daemon, side: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        idle.configure(**{side: {"listen": address if side == "api" else [address]}})
        refuses(idle, 75, "R3-NET-005", address.partition(":")[2])


def test_data_of_a_newer_version(idle: Daemon) -> None:
    with sqlite3.connect(idle.folder / "r3mes.sqlite3") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    refuses(idle, 78, "R3-STORE-004", "99", "or restore a backup")  # there is no pre-v4 to put back


def test_a_damaged_database(idle: Daemon) -> None:
    database = idle.folder / "r3mes.sqlite3"
    content = bytearray(database.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    database.write_bytes(content)
    refuses(idle, 74, "R3-STORE-005")


def test_a_wrong_passphrase(idle: Daemon) -> None:
    file = idle.folder / "wallets" / "default.passphrase"
    file.write_text("not this one")
    refuses(idle, 77, "R3-WALLET-002")


def test_a_wallet_that_others_can_read(idle: Daemon) -> None:
    (idle.folder / "wallets" / "default.json").chmod(0o644)
    refuses(idle, 78, "R3-CONF-002", "600")


def test_an_unknown_key(idle: Daemon) -> None:
    idle.configure(api={"listne": "127.0.0.1:0"})
    refuses(idle, 78, "api.listne", "did you mean listen?")


def test_models_that_cannot_be_loaded_are_named_and_the_node_serves_the_others(
    daemon: Make, tmp_path: Path
) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text('{"model_type": "llama"}')
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    own_code = {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Model"}}
    (foreign / "config.json").write_text(json.dumps(own_code))
    (foreign / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    (foreign / "tokenizer.json").write_text("{}")
    models = [
        {"id": str(tmp_path / "nowhere"), "name": "missing"},
        {"id": str(pickled), "name": "pickled"},
        {"id": str(foreign), "name": "foreign"},
        {"id": "builtin"},
    ]
    node = daemon("node", models=models).start().wait_for_model("builtin")

    def settled() -> dict[str, str] | None:
        found = {one["name"]: one for one in node.get("/node/status").json()["models"]}
        failed = {name: one["why"] for name, one in found.items() if one["state"] == "failed"}
        return failed if len(failed) == 3 else None

    why = wait(settled, "three failures")
    assert "nowhere" in why["missing"]
    assert "pickle" in why["pickled"]
    assert "code" in why["foreign"]
    for name, code in (
        ("missing", "model_missing"),
        ("pickled", "model_invalid"),
        ("foreign", "model_invalid"),
    ):
        with pytest.raises(Exception) as refused:  # noqa: PT011  of the SDK, by status
            node.openai(max_retries=0).chat.completions.create(
                model=name, messages=[{"role": "user", "content": "?"}]
            )
        assert refused.value.code == code  # type: ignore[attr-defined]
    answer = node.openai().chat.completions.create(
        model="builtin", messages=[{"role": "user", "content": "hello"}], max_tokens=2
    )
    assert answer.usage.completion_tokens == 2
