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
    assert (busy["state"], busy["slots"]) == ("ready", 4)
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
        gateway.wait_for_model("builtin")
    assert failure(server, "model_load", id="nothing") == "model_not_found"


def _ready(server: Daemon) -> bool:
    return any(
        one["id"] == "builtin" and one["state"] == "ready" for one in call(server, "model_ps")
    )


HELLO = [{"role": "user", "content": "Hello"}]


def test_a_chat_is_estimated_written_and_receipted(gateway: Daemon, server: Daemon) -> None:
    here = call(server, "infer_estimate", model="builtin", messages=HELLO, max_tokens=8)
    there = call(gateway, "infer_estimate", model="builtin", messages=HELLO, max_tokens=8)
    assert here["prompt_tokens"] > 0
    assert there["prompt_tokens"] is None  # the gateway has no model to count with
    assert there["max_cost_uremes"] >= here["max_cost_uremes"] > 0
    assert there["candidates"][0]["served_by"] == server.running.peer_id

    answer = call(gateway, "infer_complete", model="builtin", messages=HELLO, max_tokens=8)
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["prompt_tokens"] == here["prompt_tokens"]
    cost = answer["r3mes"]["cost_uremes"]
    assert 0 < cost <= here["max_cost_uremes"]

    ours = call(gateway, "earn_receipts", limit=1)
    theirs = call(server, "earn_receipts", limit=1)
    (spent,), (earned,) = ours["receipts"], theirs["receipts"]
    assert spent["receipt_id"] == earned["receipt_id"] == answer["r3mes"]["receipt_id"]
    assert (spent["role"], earned["role"], earned["uremes"]) == ("gateway", "server", cost)
    assert call(gateway, "earn_summary", since=spent["created_at"])["spent_uremes"] == cost
    assert call(server, "earn_summary")["earned_uremes"] >= cost
    asking, serving = call(gateway, "node_status"), call(server, "node_status")
    assert (asking["routed"]["out"] > 0, serving["routed"]["in"] > 0) == (True, True)
    assert asking["last_60s"]["ok"] > 0
    assert serving["last_60s"]["ttft_p50_s"] > 0
    assert asking["today"]["spent_uremes"] >= cost <= serving["today"]["earned_uremes"]
    (model,) = [one for one in serving["models"] if one["name"] == "builtin"]
    assert model["idle_s"] >= 0
    assert failure(server, "earn_receipts", cursor="1.zz.s") == "invalid_request"
    assert failure(server, "earn_summary", since="yesterday") == "invalid_request"
    (wallet,) = call(server, "wallet_list")
    assert (wallet["name"], wallet["address"]) == ("default", server.running.wallet)


def test_a_request_is_seen_and_cancelled_by_its_id(gateway: Daemon, server: Daemon) -> None:
    headers = {**gateway.headers, "x-request-id": "the-long-one"}
    body = {"model": "endless", "messages": HELLO, "stream": True}
    url = f"{gateway.url}/v1/chat/completions"
    assert call(gateway, "infer_cancel", request_id="the-long-one") == {"cancelled": False}
    with httpx.stream("POST", url, headers=headers, json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if '"content":"' in line)
        (asked,), (served,) = call(gateway, "infer_active"), call(server, "infer_active")
        assert (asked["request_id"], asked["source"]) == ("the-long-one", "api")
        assert (served["source"], served["model"], served["state"]) == (
            "peer",
            "endless",
            "running",
        )
        assert call(gateway, "infer_cancel", request_id="the-long-one") == {"cancelled": True}
        assert any("request_cancelled" in line for line in lines)
    assert call(gateway, "infer_active") == []
    wait(lambda: call(server, "infer_active") == [] or None, "the end at the server")


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
