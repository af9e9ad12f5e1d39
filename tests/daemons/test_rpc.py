"""JSON-RPC on a whole node: looked at, drained and stopped over its admin socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from benchmarks.daemons import Daemon

pytestmark = pytest.mark.slow


@pytest.fixture
def node(daemon: Callable[..., Daemon]) -> Daemon:
    return daemon("node", models=[{"id": "builtin"}]).start().wait_for_model("builtin")


@pytest.fixture
def admin(node: Daemon) -> Iterator[Callable[..., Any]]:
    transport = httpx.HTTPTransport(uds=node.running.admin)
    with httpx.Client(transport=transport, base_url="http://node", timeout=30) as client:

        def call(name: str, **params: object) -> Any:
            message = {"jsonrpc": "2.0", "id": 1, "method": name, "params": params}
            answer = client.post("/rpc", json=message).json()
            return answer["result"] if "result" in answer else answer["error"]

        yield call


def test_admin_socket_looks_drains_resumes_and_stops(
    node: Daemon, admin: Callable[..., Any]
) -> None:
    assert admin("node_info")["peer_id"] == node.running.peer_id
    assert admin("node_health")["ready"]
    tree = {task["name"]: task for task in admin("node_tasks")["tasks"]}
    assert {"store", "p2p", "work", "surface"} <= tree.keys()
    work = {task["name"]: task for task in tree["work"]["children"]}
    assert work["inference.builtin"]["mailbox"]["capacity"] > 0

    assert admin("node_drain", deadline_s=5) == {"in_flight": 0}
    refused = httpx.post(
        f"{node.url}/v1/chat/completions",
        headers=node.headers,
        json={"model": "builtin", "messages": [{"role": "user", "content": "Hi"}]},
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    assert not admin("node_health")["ready"]
    assert admin("node_resume") is None
    assert admin("node_health")["ready"]
    said = node.openai().chat.completions.create(
        model="builtin", messages=[{"role": "user", "content": "Hi"}], max_tokens=3
    )
    assert said.usage.completion_tokens > 0

    assert admin("node_shutdown") is None
    assert node.wait() == 0
    assert not (node.folder / "admin.sock").exists()


def test_shutdown_without_drain_ends_in_order_all_the_same(
    node: Daemon, admin: Callable[..., Any]
) -> None:
    assert admin("node_shutdown", drain=False) is None
    assert node.wait() == 0
    assert not (node.folder / "running.json").exists()
