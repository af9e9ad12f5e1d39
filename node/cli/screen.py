"""What `r3mes top` draws: one screen of 80 by 24 that is asked for anew every second.

A node that does not answer is shown as such, and asked again: the screen outlives its restarts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Footer, Static

from r3mes.config.schema import Config
from r3mes.errors import Forbidden, R3mesError
from r3mes.node.cli.api import call, get
from r3mes.node.cli.output import duration, short
from r3mes.node.cli.status import brief

RECEIPTS, LOG = 20, 3
MODELS = ("MODEL", "STATE", "DEVICE", "CONTEXT", "IDLE")
PEERS = ("PEER", "MODE", "RTT", "SERVED", "FAILED", "AGE", "MODELS")
ANSWERS = ("TIME", "ROLE", "MODEL", "TOKENS", "UREMES", "END", "PEER")


@dataclass(frozen=True, slots=True)
class View:
    """What there is to draw.

    Args:
        trouble: why there is nothing; empty if there is.
    """

    status: Mapping[str, Any] = field(default_factory=dict)
    receipts: Sequence[Mapping[str, Any]] = ()
    log: Sequence[Mapping[str, Any]] = ()
    trouble: str = ""


def look(config: Config) -> View:
    """Ask the node; blocks for a moment."""
    try:
        status = get(config, "/node/status")
        receipts = call(config, "earn_receipts", limit=RECEIPTS)["receipts"]
        return View(status, receipts, _log(config))
    except R3mesError as error:
        return View(trouble=str(error))


def _log(config: Config) -> Sequence[Mapping[str, Any]]:
    """The last lines, if this user may see them."""
    try:
        found: Sequence[Mapping[str, Any]] = call(config, "diag_logs", lines=LOG, level="info")
    except Forbidden:
        return ()
    return found


class Screen(App[None]):
    """The live view.

    Args:
        look: asks the node; called in a thread.
        every: seconds between two looks.
    """

    CSS = """
    #status { height: auto; max-height: 8; padding: 0 1; text-wrap: nowrap; }
    DataTable { height: 1fr; min-height: 3; }
    #log { height: auto; padding: 0 1; }
    #models { height: auto; max-height: 5; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("q", "quit", "Quit")]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, look: Callable[[], View], *, every: float) -> None:
        super().__init__()
        self._look, self._every = look, every

    def compose(self) -> ComposeResult:
        """The parts, from top to bottom."""
        yield Static("asking the node …", id="status", markup=False)
        for name in ("models", "peers", "answers"):
            yield DataTable(id=name, cursor_type="none", zebra_stripes=True)
        yield Static(id="log", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        for name, head in (("models", MODELS), ("peers", PEERS), ("answers", ANSWERS)):
            self._table(name).add_columns(*head)
        self.set_interval(self._every, self._ask)
        self._ask()

    def _ask(self) -> None:
        self.run_worker(self._fetch, thread=True, exclusive=True, group="look")

    def _fetch(self) -> None:
        view = self._look()
        self.call_from_thread(self.draw, view)

    def draw(self, view: View) -> None:
        """Show ``view``; what was there before stays while the node is silent."""
        status = self.query_one("#status", Static)
        if view.trouble:
            status.update(view.trouble)
            return
        status.update("\n".join(brief(view.status)))
        self._fill("models", [_model(model) for model in view.status["models"]])
        self._fill("peers", [_peer(peer) for peer in view.status["peers"]])
        self._fill("answers", [_answer(receipt) for receipt in view.receipts])
        width = self.size.width - 2
        self.query_one("#log", Static).update("\n".join(_line(one)[:width] for one in view.log))

    def _fill(self, name: str, rows: Sequence[Sequence[object]]) -> None:
        table = self._table(name)
        table.clear()
        table.add_rows([[str(cell) for cell in row] for row in rows])

    def _table(self, name: str) -> DataTable[str]:
        return self.query_one(f"#{name}", DataTable)


def _line(line: Mapping[str, Any]) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(line["at_ms"] / 1000))
    return f"{at} {line['level']} {line['message']}"


def _model(model: Mapping[str, Any]) -> tuple[object, ...]:
    idle = "-" if model["idle_s"] is None else duration(model["idle_s"])
    state = model["state"] if model["why"] is None else f"{model['state']}: {model['why']}"
    return model["name"], state, model["device"] or "-", model["context"] or "-", idle


def _peer(peer: Mapping[str, Any]) -> tuple[object, ...]:
    rtt = "-" if peer["rtt_ms"] is None else f"{peer['rtt_ms']:.0f}ms"
    models = ",".join(model["name"] for model in peer["models"]) or "-"
    counts = peer["served"], peer["failed"], duration(peer["age_s"])
    return short(peer["peer_id"], 6), peer["mode"], rtt, *counts, models


def _answer(receipt: Mapping[str, Any]) -> tuple[object, ...]:
    tokens = receipt["prompt_tokens"] + receipt["completion_tokens"]
    return (
        receipt["created_at"][11:19],
        receipt["role"],
        receipt["model"],
        tokens,
        receipt["uremes"],
        receipt["status"],
        "this node" if receipt["local"] else short(receipt["peer_id"], 6),
    )
