"""Whole daemons as processes on free ports of loopback, for tests and benchmarks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import tomlkit

import r3mes.actors.inference.builtin as builtin
from r3mes.node.running import Running, read_running

T = TypeVar("T")
PATIENCE_S = 90.0
"""For processes to get somewhere on a busy machine; nothing is asserted about it."""


class Daemon:
    """One node; `start` may be called again after it ended."""

    def __init__(self, folder: Path, *, log: Path | None = None, **config: Any) -> None:
        self.folder, self.log = folder, log or folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        """Of `start`, on top of this process's own."""
        folder.mkdir(parents=True)
        self.configure(**config)
        self.command("init", check=True)

    def configure(self, **config: object) -> None:
        document: dict[str, Any] = {
            "api": {"listen": "127.0.0.1:0"},
            "p2p": {"listen": ["127.0.0.1:0"], "lan_discovery": False},
            "metrics": {"listen": "127.0.0.1:0"},
            "engine": {"compile": False},
        }
        for section, values in config.items():
            if isinstance(values, dict):
                document.setdefault(section, {}).update(values)
            else:
                document[section] = values
        (self.folder / "config.toml").write_text(tomlkit.dumps(document))

    def command(self, *words: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run `r3mes` on this node's directory."""
        whole = [sys.executable, "-m", "r3mes.node", "--datadir", str(self.folder), *words]
        return subprocess.run(
            whole, check=check, capture_output=True, text=True, timeout=PATIENCE_S
        )

    def start(self) -> Daemon:
        whole = [sys.executable, "-m", "r3mes.node", "--datadir", str(self.folder), "run"]
        with self.log.open("ab") as log:
            env = {**os.environ, **self.environment}
            self.process = subprocess.Popen(whole, stdout=log, stderr=log, env=env)
        wait(lambda: self.running_now(), f"the node in {self.folder.name}")
        return self

    def running_now(self) -> Running | None:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        running = read_running(self.folder)
        return running if running and running.pid == self.process.pid else None

    @property
    def running(self) -> Running:
        running = self.running_now()
        assert running is not None
        return running

    @property
    def url(self) -> str:
        return f"http://{self.running.api}"

    @property
    def key(self) -> str:
        return (self.folder / "api-key").read_text().strip()

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def openai(self, **options: Any) -> Any:
        """The SDK's client; untyped, because its types cover more than tests say."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, **options)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", headers=self.headers, timeout=10)

    def rpc(self, method: str, **params: object) -> Any:
        """The result of a call of JSON-RPC."""
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = httpx.post(f"{self.url}/rpc", headers=self.headers, json=call, timeout=10)
        return answer.json()["result"]

    def wait_for_model(self, name: str) -> Daemon:
        def listed() -> bool | None:
            models = self.get("/v1/models").json()["data"]
            return any(model["id"] == name for model in models) or None

        wait(listed, f"the model {name} at {self.folder.name}")
        return self

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()


def wait(look: Callable[[], T | None], what: str) -> T:
    until = time.monotonic() + PATIENCE_S
    while (seen := look()) is None:
        assert time.monotonic() < until, f"{what} did not appear"
        time.sleep(0.05)
    return seen


def children_of(pid: int) -> list[int]:
    """Processes that ``pid`` started."""
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in listed for child in path.read_text().split()]


def endless_model(path: Path) -> Path:
    """The built-in model without the end of its answers, for streams that last."""
    shutil.copytree(Path(builtin.__file__).parent / "model", path)
    for name in ("config.json", "generation_config.json"):
        content = json.loads((path / name).read_text())
        content["eos_token_id"] = content["pad_token_id"]
        (path / name).write_text(json.dumps(content))
    content = json.loads((path / "tokenizer_config.json").read_text())
    content["eos_token"] = content["pad_token"]
    (path / "tokenizer_config.json").write_text(json.dumps(content))
    return path
