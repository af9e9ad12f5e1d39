"""The engines that are compared: ours, as whole daemons, and those that people would run instead.

Each is one process tree that has loaded one model and plays requests.  All stay in memory during a
run, and all but the one that is measured are suspended.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import trio

from benchmarks.asking import Answer, Arrival, Endpoint, play
from benchmarks.daemons import Daemon
from benchmarks.processes import end, free_port, peak_mb, resume, suspend, tree
from benchmarks.rivals.install import Rivals
from r3mes.actors.inference.native.opening import BY_PROGRAM

NEW_TOKENS = 64
MOST_AT_ONCE = 16
READY_S, BUILT_S = 300.0, 600.0
UNBUILT = "it is not built yet"
OURS = "r3mes"
CORES = ",".join(map(str, sorted(os.sched_getaffinity(0))))
LIMITS = {"slots": MOST_AT_ONCE, "queue": 256, "rpm_per_key": 0, "rpm_per_address": 0}


class Contestant(Protocol):
    """One engine with one model, running; `end` it."""

    @property
    def pid(self) -> int: ...

    async def play(self, arrivals: Sequence[Arrival]) -> list[Answer]: ...

    def end(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the list of who takes part.

    Args:
        engine: its name in the rows.
        via: how it is asked.
        precision: of the weights.
        open: starts it with the model in a directory, in a scratch folder of its own.
        needs: the environment that it is installed in; empty if none.
    """

    engine: str
    via: str
    precision: str
    open: Callable[[Path, Path], Contestant]
    needs: str = ""


def entries(rivals: Rivals) -> list[Entry]:
    """Everybody, ours first."""
    return [
        *(_our_entry(*variant) for variant in VARIANTS),
        *(_server_entry(rivals, *server) for server in SERVERS),
        Entry(
            "openvino",
            "in process",
            "bf16",
            lambda model, folder: InProcess(rivals, model, folder),
            needs="openvino",
        ),
    ]


VARIANTS: list[tuple[str, str, dict[str, object]]] = [
    (OURS, "bf16", {}),
    (f"{OURS}_int8", "int8", {"weights": "int8"}),
    (f"{OURS}_openvino", "bf16", {"engine": "openvino"}),
]
"""Ways in which our own daemon computes: a name, the precision, and what its model's entry says."""


def _our_entry(name: str, precision: str, options: dict[str, object]) -> Entry:
    def opened(model: Path, folder: Path) -> Contestant:
        return OurDaemon(model, folder, options)

    return Entry(name, "http", precision, opened)


class OurDaemon:
    """A whole node, asked through its HTTP API."""

    def __init__(
        self, model: Path, folder: Path, options: Mapping[str, object], **config: Any
    ) -> None:
        models = [{"id": str(model), "name": "model", **options}]
        config |= {"models": models, "limits": LIMITS, "engine": {"compile": True}}
        self.node = Daemon(folder / "node", **config).start()
        self.node.wait_for_model("model")
        self.native = self._built()
        """What of the model is code made for this machine."""
        if options.get("weights") == "int8" and BY_PROGRAM not in self.native:
            self.end()
            raise RuntimeError(f"its weights are not bytes in a program: {self.native}")

    def _built(self) -> str:
        """Wait until what the node makes for this machine is made: once, it is kept."""
        until = time.monotonic() + BUILT_S
        while time.monotonic() < until:
            shown = self.node.command("models", "show", "model", "--json", check=True)
            native: str = json.loads(shown.stdout)["local"].get("native") or ""
            if UNBUILT not in native:
                return native
            time.sleep(1)
        raise RuntimeError(f"not made for this machine after {BUILT_S} s: {native}")

    def endpoint(self, max_tokens: int) -> Endpoint:
        """Where it is asked for answers of that length."""
        body = {"model": "model", "max_tokens": max_tokens}
        return Endpoint(self.node.url, "/v1/chat/completions", body, self.node.headers)

    @property
    def pid(self) -> int:
        return self.node.running.pid

    @property
    def worker_peak_mb(self) -> float:
        return max(peak_mb(pid) for pid in tree(self.pid)[1:])

    async def play(self, arrivals: Sequence[Arrival]) -> list[Answer]:
        return await play(self.endpoint(NEW_TOKENS), arrivals)

    def end(self) -> None:
        resume(self.pid)
        self.node.end()


@dataclass(frozen=True, slots=True)
class Command:
    """How a rival's server is started and asked; ``argv`` gets model, port and its own folder."""

    argv: Callable[[Rivals, Path, int], Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)


def _transformers(rivals: Rivals, model: Path, port: int) -> Sequence[str]:
    program = str(rivals.program("transformers_serve", "transformers"))
    # By itself it takes more than half of the machine's memory for keys and values.
    memory = ["--cb-max-memory-percent", "0.05"]
    options = ["--continuous-batching", *memory, "--device", "cpu", "--dtype", "bfloat16"]
    return [program, "serve", *options, "--host", "127.0.0.1", "--port", str(port), str(model)]


def _vllm(rivals: Rivals, model: Path, port: int) -> Sequence[str]:
    program = str(rivals.program("vllm", "vllm"))
    bounds = ["--max-model-len", "2048", "--max-num-seqs", str(MOST_AT_ONCE)]
    options = ["--dtype", "bfloat16", "--served-model-name", str(model), *bounds]
    return [program, "serve", str(model), *options, "--host", "127.0.0.1", "--port", str(port)]


def _llamacpp(weights: str) -> Callable[[Rivals, Path, int], Sequence[str]]:
    def argv(rivals: Rivals, model: Path, port: int) -> Sequence[str]:
        program, file = str(rivals.llama_server), str(rivals.gguf(model, weights))
        slots = ["--parallel", str(MOST_AT_ONCE), "--ctx-size", str(512 * MOST_AT_ONCE)]
        cores = ["--threads", str(len(os.sched_getaffinity(0))), "--no-webui"]
        where = ["--host", "127.0.0.1", "--port", str(port), "--alias", str(model)]
        return [program, "--model", file, *slots, *cores, *where]

    return argv


SAMPLED = {"do_sample": True, "top_k": 0, "max_new_tokens": NEW_TOKENS, "pad_token_id": 0}
LLAMACPP = {"ignore_eos": True, "top_k": 0, "min_p": 0, "samplers": ["temperature"]}
SERVERS = [
    (
        "transformers_serve",
        "transformers_serve",
        "bf16",
        Command(_transformers, body={"generation_config": json.dumps(SAMPLED)}),
    ),
    (
        "vllm",
        "vllm",
        "bf16",
        Command(
            _vllm,
            {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": CORES},
            {"ignore_eos": True},
        ),
    ),
    ("llamacpp_bf16", "llamacpp", "bf16", Command(_llamacpp("bf16"), body=LLAMACPP)),
    ("llamacpp_q8", "llamacpp", "q8_0", Command(_llamacpp("q8_0"), body=LLAMACPP)),
]
"""Rivals that are servers: name, environment, precision, command.

The bodies of some say what it takes to sample from all tokens, as the others do without."""

OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def _server_entry(rivals: Rivals, name: str, needs: str, precision: str, command: Command) -> Entry:
    def opened(model: Path, folder: Path) -> Contestant:
        return Server(rivals, name, command, model, folder)

    return Entry(name, "http", precision, opened, needs)


class Server:
    """A rival's server, with the same API as ours."""

    def __init__(
        self, rivals: Rivals, name: str, command: Command, model: Path, folder: Path
    ) -> None:
        port = free_port()
        self._endpoint = Endpoint(
            f"http://127.0.0.1:{port}",
            "/v1/chat/completions",
            {"model": str(model), "max_tokens": NEW_TOKENS, **command.body},
            {},
        )
        self._process = _spawn(
            command.argv(rivals, model, port), folder / f"{name}.log", command.environment
        )
        _wait_healthy(self._process, f"{self._endpoint.url}/health", folder / f"{name}.log")

    @property
    def pid(self) -> int:
        return self._process.pid

    async def play(self, arrivals: Sequence[Arrival]) -> list[Answer]:
        return await play(self._endpoint, arrivals)

    def end(self) -> None:
        end(self._process)


class InProcess:
    """OpenVINO GenAI, asked in its own process by a small program that reads plays as lines."""

    def __init__(self, rivals: Rivals, model: Path, folder: Path) -> None:
        program = Path(__file__).with_name("rivals") / "openvino_play.py"
        exported = rivals.openvino_export(model)
        argv = [str(rivals.program("openvino", "python")), str(program), str(exported), str(model)]
        self._log = folder / "openvino.log"
        self._process = _spawn(argv, self._log, {}, pipes=True)
        self._read()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def play(self, arrivals: Sequence[Arrival]) -> list[Answer]:
        return await trio.to_thread.run_sync(self._play, arrivals)

    def _play(self, arrivals: Sequence[Arrival]) -> list[Answer]:
        assert self._process.stdin is not None
        asked = [[arrival.at_s, arrival.text] for arrival in arrivals]
        line = json.dumps({"arrivals": asked, "new_tokens": NEW_TOKENS}) + "\n"
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()
        return [Answer(at, tuple(seen), len(seen)) for at, seen in json.loads(self._read())]

    def _read(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"it ended: {_last_line(self._log)}")
        return line

    def end(self) -> None:
        end(self._process)


def _spawn(
    argv: Sequence[str], log: Path, environment: Mapping[str, str], *, pipes: bool = False
) -> subprocess.Popen[bytes]:
    """Start a server on its own; its sources of modules are its own, too."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    pipe = subprocess.PIPE if pipes else subprocess.DEVNULL
    with log.open("ab") as out:
        return subprocess.Popen(
            argv,
            env={**own, **OFFLINE, **environment},
            cwd=log.parent,
            stdin=pipe,
            stdout=pipe if pipes else out,
            stderr=out,
            start_new_session=True,
        )


def _wait_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            if httpx.get(url, timeout=2).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    end(process)
    raise RuntimeError(f"its server did not start: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return lines[-1][:300]


def alone(running: Sequence[Contestant], chosen: Contestant) -> None:
    """Suspend all but one."""
    for contestant in running:
        if contestant is not chosen:
            suspend(contestant.pid)
    resume(chosen.pid)


def tree_peak_mb(contestant: Contestant) -> float:
    """Most resident memory of its processes, together."""
    return sum(peak_mb(pid) for pid in tree(contestant.pid))
