"""Whole daemons as processes, on free ports of loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.daemons import Daemon, endless_model


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return endless_model(tmp_path_factory.mktemp("models") / "endless")


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
    server = Daemon(folder / "server", models=models).start()
    gateway = Daemon(folder / "gateway", p2p={"bootstrap": [server.running.p2p[0]]}).start()
    for name in ("builtin", "endless"):
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
