"""Whole daemons as processes, on free ports of loopback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.daemons import Daemon, endless_model

WITH_TOOLS = """
{%- if tools %}{{ 'Tools: ' + tools | tojson + ' Call as <tool_call>{}</tool_call>.' }}{% endif %}
{%- for message in messages if message.role == 'tool' or message.tool_calls %}
  {{- message.content + (message.tool_calls or []) | tojson }}
{%- endfor %}
{%- set messages = messages | rejectattr('role', 'equalto', 'tool') | list %}
"""


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model without an end, and with a place for tools in its template."""
    path = endless_model(tmp_path_factory.mktemp("models") / "endless")
    template = path / "chat_template.jinja"
    template.write_text(WITH_TOOLS + template.read_text())
    return path


SIZE, LAYERS, RANK = 192, 4, 8


def _save_adapter(directory: Path, seed: int) -> Path:
    """An adapter of the built-in model that turns its answers into others."""
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        for part, shape in (("A", (RANK, SIZE)), ("B", (SIZE, RANK))):
            tensors[f"{name}.lora_{part}.weight"] = random.normal(0, 0.3, shape).astype("float32")
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return directory


@pytest.fixture
def save_adapter() -> Callable[[Path, int], Path]:
    """Writes an adapter of the built-in model; another seed makes another one."""
    return _save_adapter


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Makes daemons that end with the test."""
    made: list[Daemon] = []

    def make(name: str, **config: Any) -> Daemon:
        made.append(Daemon(tmp_path / name, **config))
        return made[-1]

    yield make
    for one in reversed(made):
        one.end()


@pytest.fixture(scope="package")
def pair(
    tmp_path_factory: pytest.TempPathFactory, endless: Path
) -> Iterator[tuple[Daemon, Daemon]]:
    """A gateway without a model and the node that serves it; shared, so tests leave them up."""
    folder = tmp_path_factory.mktemp("pair")
    models = [{"id": "builtin"}, {"id": str(endless), "name": "endless"}]
    source = str(_save_adapter(folder / "turned", 1))
    adapters = [{"model": "builtin", "name": "turned", "id": source}]
    server = Daemon(folder / "server", models=models, adapters=adapters).start()
    server.wait_for_model("builtin:turned")  # before the gateway asks what there is
    gateway = Daemon(folder / "gateway", p2p={"bootstrap": [server.running.p2p[0]]}).start()
    for name in ("builtin", "endless", "builtin:turned"):
        gateway.wait_for_model(name)
    yield gateway, server
    gateway.end()
    server.end()


@pytest.fixture
def gateway(pair: tuple[Daemon, Daemon]) -> Daemon:
    return pair[0]


@pytest.fixture
def server(pair: tuple[Daemon, Daemon]) -> Daemon:
    return pair[1]
