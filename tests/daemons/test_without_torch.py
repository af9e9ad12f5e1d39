"""A node on which torch is not installed: it starts, says so, and has others answer.

One of these others is the API of another node, fronted as any OpenAI-compatible server.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.daemons import Daemon
from r3mes.actors.inference.builtin import MODEL_DIR

pytestmark = pytest.mark.slow

QUESTION: Any = [{"role": "user", "content": "What is a receipt?"}]
HIDE = """
import importlib.machinery as machinery

real = machinery.PathFinder.find_spec

def find_spec(name, path=None, target=None):
    hidden = name.partition(".")[0] in ("torch", "transformers")
    return None if hidden else real(name, path, target)

machinery.PathFinder.find_spec = find_spec
"""


@pytest.fixture
def without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever starts from here on finds neither torch nor transformers."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(HIDE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))


@pytest.mark.usefixtures("without_torch")
def test_it_routes_and_fronts_and_says_what_is_missing(
    daemon: Callable[..., Daemon], server: Daemon, tmp_path: Path
) -> None:
    key_file = tmp_path / "upstream-key"
    key_file.write_text(server.key)
    key_file.chmod(0o600)
    front = {
        "id": "builtin",
        "name": "mirror",
        "upstream_url": f"{server.url}/v1",
        "upstream_key_file": str(key_file),
        "tokenizer": str(MODEL_DIR),
    }
    node = daemon(
        "gateway", models=[{"id": "builtin"}, front], p2p={"bootstrap": [server.running.p2p[0]]}
    )
    node.start().wait_for_model("mirror").wait_for_model("builtin")

    status = node.get("/node/status").json()
    own, fronted = status["models"]
    assert (own["state"], own["engine"]) == ("failed", "none")
    assert own["why"] == "engine: none, because torch is not installed"
    assert (fronted["state"], fronted["engine"]) == ("ready", "upstream")
    assert server.url in fronted["engine_reason"]
    found = node.command("doctor").stdout
    assert "none, because torch is not installed; builtin needs it" in " ".join(found.split())

    client = node.openai()
    asked = client.chat.completions.create(model="builtin", messages=QUESTION, temperature=0)
    assert asked.model_extra["r3mes"]["route"] == "peer"
    mirrored = client.chat.completions.create(model="mirror", messages=QUESTION, temperature=0)
    assert mirrored.model_extra["r3mes"]["route"] == "local"
    assert mirrored.choices[0].message.content == asked.choices[0].message.content
    assert mirrored.usage == asked.usage


def test_a_node_without_models_says_that_it_has_no_engine(gateway: Daemon) -> None:
    status = gateway.get("/node/status").json()
    assert status["engine"] == "none, because no model is configured"
    assert "none of its own; requests go to peers" in gateway.command("status").stdout
