"""What an operator does over the admin socket, with two real daemons."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from benchmarks.daemons import Daemon, wait

pytestmark = [pytest.mark.slow, pytest.mark.net]


def call(daemon: Daemon, method: str, **params: object) -> Any:
    """The result of a method; fails the test on an error."""
    answer = ask(daemon, method, **params)
    assert "result" in answer, answer
    return answer["result"]


def ask(daemon: Daemon, method: str, **params: object) -> Any:
    transport = httpx.HTTPTransport(uds=daemon.running.admin)
    with httpx.Client(transport=transport, base_url="http://admin", timeout=30) as client:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return client.post("/rpc", json=message).json()


def failure(daemon: Daemon, method: str, **params: object) -> Any:
    return ask(daemon, method, **params)["error"]["data"]["code"]


def test_a_model_is_unloaded_loaded_and_verified(gateway: Daemon, server: Daemon) -> None:
    (busy,) = [one for one in call(server, "model_ps") if one["id"] == "builtin"]
    assert (busy["state"], busy["slots"]) == ("ready", 1)
    assert busy["memory_bytes"] > 50 << 20
    assert call(server, "model_verify", id="builtin")["ok"]
    offered = call(gateway, "model_list", scope="network")
    assert {(one["id"], one["served_by"]) for one in offered} >= {
        ("builtin", server.running.peer_id)
    }
    shown = call(gateway, "model_show", id="builtin")
    assert (shown["local"], shown["offers"][0]["state"]) == (None, "ready")

    assert call(server, "model_unload", id="builtin")["state"] == "unloaded"
    try:
        (put_away,) = [one for one in call(server, "model_ps") if one["id"] == "builtin"]
        assert (put_away["memory_bytes"], put_away["idle_s"]) == (0, None)
        (listed,) = [one for one in call(server, "model_list") if one["id"] == "builtin"]
        assert listed["state"] == "unloaded"
        assert failure(server, "model_verify", id="builtin") == "model_unloaded"
        refused = httpx.post(
            f"{gateway.url}/v1/chat/completions",
            headers=gateway.headers,
            json={"model": "builtin", "messages": [{"role": "user", "content": "Hi"}]},
            timeout=30,
        )
        assert refused.status_code in (404, 503), refused.text
    finally:
        call(server, "model_load", id="builtin")
        wait(lambda: _ready(server) or None, "the model")
    assert failure(server, "model_load", id="nothing") == "model_not_found"


def _ready(server: Daemon) -> bool:
    return any(
        one["id"] == "builtin" and one["state"] == "ready" for one in call(server, "model_ps")
    )


def test_a_peer_is_banned_and_comes_back(gateway: Daemon, server: Daemon) -> None:
    (peer,) = call(gateway, "net_peers")
    assert (peer["peer_id"], peer["direction"]) == (server.running.peer_id, "outbound")
    assert call(gateway, "net_peers", filter="no such peer") == []
    ban = call(gateway, "net_ban", peer_id=peer["peer_id"], ttl_s=3600, reason="test")
    assert ban["until_ms"] - ban["since_ms"] == 3_600_000
    try:
        assert call(gateway, "net_peers") == []
        assert [one["reason"] for one in call(gateway, "net_bans")] == ["test"]
        assert failure(gateway, "net_connect", addr=server.running.p2p[0]) == "peer_banned"
    finally:
        call(gateway, "net_unban", peer_id=peer["peer_id"])
    assert call(gateway, "net_connect", addr=server.running.p2p[0])["rtt_ms"] > 0
    gateway.wait_for_model("builtin")
    assert failure(gateway, "net_unban", peer_id=peer["peer_id"]) == "not_found"
    assert call(gateway, "net_reachability")["verdict"] == "unknown"
