"""A LoRA adapter loaded into a running node, and asked for through another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from benchmarks.daemons import Daemon

pytestmark = [pytest.mark.apart, pytest.mark.slow]
QUESTION: Any = [{"role": "user", "content": "What is a receipt?"}]
NAME = "builtin:turned"
"""Of the pair's configuration."""


def ask(node: Daemon, model: str) -> Any:
    return node.openai().chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=16
    )


def rpc(node: Daemon, method: str, **params: object) -> Any:
    call = {"jsonrpc": "2.0", "method": method, "params": params, "id": 1}
    with httpx.Client(transport=httpx.HTTPTransport(uds=node.running.admin)) as client:
        return client.post("http://node/rpc", json=call, timeout=30).json()


def offered(node: Daemon, name: str) -> Any:
    models = node.get("/v1/models").json()["data"]
    return next((model for model in models if model["id"] == name), None)


def test_an_adapter_is_asked_for_through_another_node(gateway: Daemon, server: Daemon) -> None:
    turned, plain = ask(gateway, NAME), ask(gateway, "builtin")
    assert turned.choices[0].message.content != plain.choices[0].message.content
    assert (turned.model, turned.model_extra["r3mes"]["route"]) == (NAME, "peer")
    assert ask(server, NAME).choices[0].message.content == turned.choices[0].message.content
    there, here = offered(gateway, NAME), offered(gateway, "builtin")
    assert there["owned_by"] == server.running.peer_id
    assert there["r3mes"]["hash"] != here["r3mes"]["hash"]


def test_one_is_replaced_and_put_away_while_the_node_runs(
    server: Daemon, save_adapter: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    name = "builtin:later"
    first, second = save_adapter(tmp_path / "one", 2), save_adapter(tmp_path / "two", 3)
    loaded = server.command("models", "adapters", "load", name, str(first))
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.startswith("builtin:later: ready   hash ")
    before, answer = offered(server, name), ask(server, name).choices[0].message.content
    bad = rpc(server, "model_loadAdapter", id=name, source=str(tmp_path))
    assert "no adapter_config.json" in bad["error"]["message"]
    assert offered(server, name) == before
    again = rpc(server, "model_loadAdapter", id=name, source=str(second))
    assert again["result"]["hash"] == offered(server, name)["r3mes"]["hash"]
    assert again["result"]["hash"] != before["r3mes"]["hash"]
    assert ask(server, name).choices[0].message.content != answer

    listed = {one["id"]: one for one in rpc(server, "model_adapters")["result"]}
    assert set(listed) == {NAME, name}
    assert (listed[name]["state"], listed[name]["in_memory"]) == ("ready", True)
    refused = rpc(server, "model_unload", id=name)
    assert "is an adapter and no model" in refused["error"]["message"]
    gone = server.command("models", "adapters", "unload", name)
    assert gone.stdout.startswith("builtin:later: unloaded")
    assert offered(server, name) is None
    with pytest.raises(openai.APIStatusError) as unloaded:
        ask(server, name)
    assert unloaded.value.code == "model_unloaded"
    assert ask(server, NAME).choices[0].message.content
