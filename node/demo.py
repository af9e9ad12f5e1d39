"""`r3mes demo`: three nodes on this machine, one question, one answer, one receipt.

Alice has no model.  Bob and Carol serve the built-in one.  An application asks Alice over HTTP with
the `openai` package, and the answer comes from Bob or Carol over libp2p.  What the nodes claim is
then checked from outside: both copies of the receipt are read and their signatures verified.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import openai
import tomlkit

from r3mes.actors.ledger import GATEWAY, SERVER, Receipt, read_receipt
from r3mes.actors.requests.receipt import verify_countersignature, verify_result
from r3mes.actors.store import DATABASE, open_readonly
from r3mes.errors import EnvelopeRefused, NotReady
from r3mes.ids import Address, PeerId, RequestHash
from r3mes.node.running import Running, read_running

QUESTION = "What is a receipt?"
START_S = 60.0
"""How long three nodes may take to start and to load their models, on a slow machine."""
STOP_S = 20.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DemoNode:
    """A node in a process of its own, and what it wrote of itself when it was up."""

    name: str
    folder: Path
    running: Running

    @property
    def peer(self) -> PeerId:
        return PeerId(self.running.peer_id)

    @property
    def wallet(self) -> Address:
        return Address(self.running.wallet)

    def receipt(self, request: RequestHash, role: str) -> Receipt | None:
        """Its copy of a receipt, from its database, past the node itself."""
        with closing(open_readonly(self.folder / DATABASE)) as connection:
            return read_receipt(connection, request, role)


@dataclass(frozen=True, slots=True)
class Told:
    """What the application got."""

    model: str
    text: str
    server: PeerId
    request: RequestHash
    tokens: int
    ttft_ms: float
    total_ms: float


def main() -> int:
    """Run the story: told on stderr, and what came of it as JSON on the last line of stdout."""
    with tempfile.TemporaryDirectory(prefix="r3mes-demo-") as folder:
        outcome = _story(Path(folder))
    print(json.dumps(outcome))  # noqa: T201 the command's result
    return 0 if outcome["signature_verified"] and outcome["receipt_verified"] else 1


def _story(folder: Path) -> dict[str, object]:
    _say("Three nodes start on this machine, each with a wallet and a data directory of its own.")
    with _nodes(folder, ("bob", "carol"), _config(models=["builtin"])) as servers:
        known = _config(bootstrap=[node.running.p2p[0] for node in servers])
        with _nodes(folder, ("alice",), known) as (alice,):
            for node in (alice, *servers):
                model = "no model" if node is alice else "the built-in model"
                _say(f"  {node.name:<6} {node.peer}  {model}")
            told = _ask(alice)
            outcome = _check(alice, next(one for one in servers if one.peer == told.server), told)
    _say("All three nodes stopped in good order.")
    return outcome


def _ask(alice: DemoNode) -> Told:
    """What an application does: the `openai` package, pointed at its own node."""
    key = (alice.folder / "api-key").read_text().strip()
    client = openai.OpenAI(base_url=f"http://{alice.running.api}/v1", api_key=key)
    model = _wait(lambda: next((one.id for one in client.models.list()), None), "an offered model")
    _say(f"\nAn application asks alice, who has heard of the model {model!r} from her peers:")
    _say(f"  > {QUESTION}")
    started = time.perf_counter()
    first, text = 0.0, ""
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        if chunk.choices and (delta := chunk.choices[0].delta.content):
            first = first or time.perf_counter()
            text += delta
    ended = time.perf_counter()
    _say(f"  < {text}\n")
    more, usage = (chunk.model_extra or {})["r3mes"], chunk.usage
    return Told(
        model=model,
        text=text,
        server=PeerId(more["peer_id"]),
        request=RequestHash(bytes.fromhex(more["receipt_id"])),
        tokens=usage.completion_tokens if usage else 0,
        ttft_ms=round((first - started) * 1000, 1),
        total_ms=round((ended - started) * 1000, 1),
    )


def _check(alice: DemoNode, server: DemoNode, told: Told) -> dict[str, object]:
    """Verify from outside what the nodes claim, with nothing but their wallets' addresses."""
    ours = _wait(lambda: alice.receipt(told.request, GATEWAY), "alice's copy of the receipt")
    theirs = _wait(
        lambda: _countersigned(server.receipt(told.request, SERVER)), "the server's copy"
    )
    signed = _holds(lambda: verify_result(ours.result, ours.signature, wallet=server.wallet))
    both = (ours.result, ours.signature) == (theirs.result, theirs.signature) and _holds(
        lambda: verify_countersignature(
            theirs.result, theirs.signature, theirs.countersignature or b"", sub=alice.wallet
        )
    )
    _say(f"{server.name} wrote it in a worker process and signed its end with its wallet,")
    _say(f"alice countersigned. Both keep the receipt {told.request.hex()[:16]}…; checked from")
    _say(f"outside: signature {_verdict(signed)}, receipt {_verdict(both)}.")
    return {
        "answer": told.text,
        "model": told.model,
        "engine": "torch",
        "gateway_peer": alice.peer,
        "serving_peer": server.peer,
        "signature_verified": signed,
        "receipt_verified": both,
        "tokens": told.tokens,
        "ttft_ms": told.ttft_ms,
        "total_ms": told.total_ms,
    }


def _countersigned(receipt: Receipt | None) -> Receipt | None:
    return receipt if receipt and receipt.countersignature else None


def _holds(check: Callable[[], object]) -> bool:
    try:
        check()
    except EnvelopeRefused as error:
        _say(str(error))
        return False
    return True


def _verdict(holds: bool) -> str:
    return "verified" if holds else "NOT VERIFIED"


@contextmanager
def _nodes(folder: Path, names: Sequence[str], config: str) -> Iterator[list[DemoNode]]:
    """Nodes that are set up and started together, and stopped in the end.

    Raises:
        NotReady: one did not start, or did not stop in good order.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for name in names:
            processes.append(_start(folder / name, config))  # noqa: PERF401  of each that began
        yield [_up(name, folder / name, one) for name, one in zip(names, processes, strict=True)]
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        statuses = [_end(process) for process in processes]
    if any(statuses):
        raise NotReady(f"the nodes {', '.join(names)} ended with {statuses}, 0 was due")


def _config(*, models: Sequence[str] = (), bootstrap: Sequence[str] = ()) -> str:
    """A node on free ports of this machine's loopback, which it does not look beyond."""
    document = tomlkit.document()
    document["api"] = {"listen": "127.0.0.1:0"}
    document["metrics"] = {"listen": "127.0.0.1:0"}
    document["p2p"] = {
        "listen": ["127.0.0.1:0"],
        "bootstrap": list(bootstrap),
        "lan_discovery": False,
    }
    document["models"] = [{"id": model} for model in models]
    return tomlkit.dumps(document)


def _start(folder: Path, config: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "r3mes.node", "--datadir", str(folder)]
    folder.mkdir()
    (folder / "config.toml").write_text(config)  # before `init`, which keeps what is there
    subprocess.run([*command, "init"], check=True, capture_output=True)  # noqa: S603
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([*command, "run"], stdout=log, stderr=log)  # noqa: S603


def _up(name: str, folder: Path, process: subprocess.Popen[bytes]) -> DemoNode:
    def ready() -> Running | None:
        if process.poll() is not None:
            raise NotReady(f"{name} ended at its start:\n{(folder / 'log').read_text()}")
        return read_running(folder)

    return DemoNode(name, folder, _wait(ready, f"the node {name}"))


def _end(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _wait(look: Callable[[], T | None], what: str) -> T:
    """Look until there is something to see."""
    until = time.monotonic() + START_S
    while (seen := look()) is None:
        if time.monotonic() > until:
            raise NotReady(f"{what} did not appear within {START_S:g} s")
        time.sleep(0.05)
    return seen


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 the story
