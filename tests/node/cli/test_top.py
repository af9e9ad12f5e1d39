"""`r3mes top` on a screen of 80 by 24, against a server that answers and then does not."""

from __future__ import annotations

import asyncio  # noqa: TID251  textual runs on it
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
from textual.widgets import DataTable, Static

from r3mes.config.load import load
from r3mes.node.cli.screen import Screen, View, look
from r3mes.node.doctor.finding import Subject
from r3mes.node.earnings import ReceiptPage, ReceiptShown
from r3mes.node.http.app import build_admin_app
from r3mes.node.http.server import HttpServer
from r3mes.node.logs.ring import Ring
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.methods.diag import DiagMethods
from r3mes.node.rpc.methods.earn import EarnMethods

if TYPE_CHECKING:
    from pathlib import Path

    from textual.pilot import Pilot

    from r3mes.actors.ledger import Totals
    from tests.node.cli.conftest import Cli
    from tests.node.conftest import Api

pytestmark = pytest.mark.net

RECEIPT = ReceiptShown(
    "ab" * 32, "server", "12D3KooWpeer", False, "tiny", 10, 32, 7, "stop", True,
    "2026-11-25T05:06:07+00:00",
)  # fmt: skip


def _nobody() -> Subject:
    raise NotImplementedError


class SmallEarnings:
    async def page(self, *, limit: int, since: str | None, cursor: str | None) -> ReceiptPage:
        return ReceiptPage([RECEIPT], None)

    async def summary(self, since: str | None = None) -> Totals:
        raise NotImplementedError


@pytest.fixture
async def ask(tmp_path: Path, api: Api, nursery: trio.Nursery) -> Callable[[], View]:
    """Looks at a server on an admin socket."""
    ring = Ring()
    ring.add(0, "warning", "r3mes.test", "the disk is nearly full " * 9)
    app = build_admin_app(
        gateway=api.gateway,
        state=api.state,
        rpc=Dispatcher(EarnMethods(SmallEarnings()), DiagMethods(ring, _nobody)),
    )
    await nursery.start(HttpServer(app, listen=f"unix:{tmp_path}/admin.sock", drain_seconds=5).run)
    config = load(
        file=tmp_path / "config.toml", env={}, flags={"node.datadir": str(tmp_path)}
    ).config
    return partial(look, config)


async def shows(pilot: Pilot[None], words: str) -> None:
    """Wait until the status has ``words``; a new look comes by itself."""
    while words not in str(pilot.app.query_one("#status", Static).content):
        await pilot.pause(0.02)


async def watch(ask: Callable[[], View]) -> None:
    current = ask
    screen = Screen(lambda: current(), every=0.05)
    async with screen.run_test(size=(80, 24)) as pilot:
        async with asyncio.timeout(20):
            await shows(pilot, "up 1h1m · ready")
            await shows(pilot, "r3mes wallet backup")
            rows = {
                name: screen.query_one(f"#{name}", DataTable)
                for name in ("models", "peers", "answers")
            }
            assert rows["models"].get_row_at(0)[:3] == ["org/tiny", "ready", "cpu"]
            assert rows["peers"].get_row_at(0)[6] == "other"
            assert rows["answers"].get_row_at(0)[:4] == ["05:06:07", "server", "tiny", "42"]
            log = str(screen.query_one("#log", Static).content)
            assert log[8:].startswith(" warning the disk is nearly full")
            assert len(log) <= 80
            for widget in screen.query("DataTable, Static"):
                assert widget.region.height > 0
                assert widget.region.bottom <= 24
            current = partial(View, trouble="nothing answers")
            await shows(pilot, "nothing answers")
            assert rows["models"].row_count == 1
            current = ask
            await shows(pilot, "ready")
            await pilot.press("q")
    assert screen.return_code == 0


async def test_the_screen(ask: Callable[[], View]) -> None:
    await trio.to_thread.run_sync(lambda: asyncio.run(watch(ask)))


def test_without_a_terminal(cli: Cli) -> None:
    ran = cli("top")
    assert ran.code == 2
    assert "r3mes status --json" in ran.err
