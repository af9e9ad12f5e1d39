"""What a daemon does when it is stopped, killed, frozen, and started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

from benchmarks.daemons import Daemon, children_of, wait
from r3mes.actors.ledger import GATEWAY, SERVER, read_receipt
from r3mes.actors.store import DATABASE, open_readonly
from r3mes.ids import RequestHash

QUESTION: Any = [{"role": "user", "content": "What is a receipt?"}]
pytestmark = pytest.mark.slow
Make = Callable[..., Daemon]


def stream(daemon: Daemon, **more: object) -> Any:
    return daemon.openai(max_retries=0).chat.completions.create(
        model="endless", messages=QUESTION, temperature=0, stream=True, **more
    )


def read_one(chunks: Any) -> str:
    return next(
        str(chunk.choices[0].delta.content)
        for chunk in chunks
        if chunk.choices and chunk.choices[0].delta.content
    )


@pytest.fixture
def two(daemon: Make, endless: Path) -> tuple[Daemon, Daemon]:
    """A gateway without a model, and the node that serves it."""
    server = daemon("server", models=[{"id": str(endless), "name": "endless"}]).start()
    gateway = daemon("gateway", p2p={"bootstrap": [server.running.p2p[0]]}).start()
    return gateway.wait_for_model("endless"), server


def test_sigterm_lets_the_streams_in_flight_end_whole(two: tuple[Daemon, Daemon]) -> None:
    gateway, server = two
    chunks = stream(gateway, max_tokens=120)
    read_one(chunks)
    server.signal(signal.SIGTERM)
    gateway.signal(signal.SIGTERM)
    last = [chunk for chunk in chunks if chunk.choices][-1]
    assert last.choices[0].finish_reason == "length"
    assert (gateway.wait(), server.wait()) == (0, 0)
    assert not (server.folder / "running.json").exists()


def test_after_kill_9_all_receipts_are_there_and_the_node_serves_again(
    two: tuple[Daemon, Daemon],
) -> None:
    gateway, server = two
    acknowledged = [
        gateway.openai()
        .chat.completions.create(model="endless", messages=QUESTION, max_tokens=3)
        .model_extra["r3mes"]["receipt_id"]
        for _ in range(3)
    ]
    chunks = stream(gateway)
    read_one(chunks)
    (worker,) = children_of(server.process.pid)  # type: ignore[union-attr]
    server.signal(signal.SIGKILL)
    with pytest.raises(openai.APIError) as broken:
        list(chunks)
    assert broken.value.code == "peer_disconnected"
    assert server.wait() == -signal.SIGKILL
    wait(lambda: not Path(f"/proc/{worker}").exists() or None, "the end of the orphaned worker")
    server.configure(
        p2p={"listen": [address_of(server)]}, models=[{"id": "builtin", "name": "endless"}]
    )
    server.start().wait_for_model("endless")
    for request in map(bytes.fromhex, acknowledged):
        assert kept(gateway, request, GATEWAY) == kept(server, request, SERVER)
    gateway.wait_for_model("endless")


def kept(daemon: Daemon, request: bytes, role: str) -> bytes:
    """The signed result in its store, whatever runs on it."""
    with closing(open_readonly(daemon.folder / DATABASE)) as connection:
        receipt = read_receipt(connection, RequestHash(request), role)
    assert receipt is not None
    return receipt.result


def address_of(daemon: Daemon) -> str:
    """``host:port`` where its peers knew it; read from the log, since it died."""
    (line,) = {
        line.split("/p2p/")[0].split("/tcp/")[1]
        for line in daemon.log.read_text().splitlines()
        if "/ip4/127.0.0.1/tcp/" in line and "p2p " in line
    }
    return f"127.0.0.1:{line}"


def test_a_worker_that_is_killed_ends_its_answer_and_is_replaced(
    two: tuple[Daemon, Daemon],
) -> None:
    gateway, server = two
    chunks = stream(gateway)
    read_one(chunks)
    (worker,) = children_of(server.running.pid)
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(openai.APIError) as broken:
        list(chunks)
    assert broken.value.code == "engine_crashed"
    answer = gateway.openai(max_retries=10).chat.completions.create(
        model="endless", messages=QUESTION, max_tokens=3
    )
    assert answer.usage.completion_tokens == 3


def test_a_frozen_server_is_noticed(two: tuple[Daemon, Daemon]) -> None:
    gateway, server = two
    chunks = stream(gateway)
    read_one(chunks)
    server.signal(signal.SIGSTOP)
    with pytest.raises(openai.APIError) as broken:
        list(chunks)
    assert broken.value.code == "peer_disconnected"
