"""models pull, import, list, add and rm: by a node that runs, and without one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest
import trio

from r3mes.actors.inference.hub import Hub
from r3mes.actors.inference.pulling import Patience
from r3mes.actors.inference.pulls import Pulls
from r3mes.config.load import load
from r3mes.node.cli.pulling import line
from r3mes.node.http.app import build_admin_app
from r3mes.node.http.server import HttpServer
from r3mes.node.jobs import Jobs, library_of
from r3mes.node.rpc.dispatcher import Dispatcher
from r3mes.node.rpc.methods.model_jobs import ModelJobs
from r3mes.node.running import Running, write_running
from tests.actors.inference.small_hub import COMMIT, LARGE, Fault, SmallHub, serving_hub
from tests.actors.inference.test_pulling import ID, files

if TYPE_CHECKING:
    from tests.node.cli.conftest import Cli, Ran
    from tests.node.conftest import Api

Ask: TypeAlias = "Callable[..., Awaitable[Ran]]"
pytestmark = pytest.mark.net


@pytest.fixture
async def hub(cli: Cli) -> AsyncIterator[SmallHub]:
    cli.datadir.mkdir()
    async with serving_hub(SmallHub(files())) as served:
        (cli.datadir / "config.toml").write_text(
            f'# mine\n[hub]\nendpoint = "{served.endpoint}"  # a mirror\n'
        )
        yield served


@pytest.fixture
def ask(cli: Cli, hub: SmallHub) -> Ask:
    async def ask(*words: str) -> Ran:
        return await trio.to_thread.run_sync(partial(cli, *words))

    return ask


@pytest.fixture
async def node(cli: Cli, hub: SmallHub, api: Api, nursery: trio.Nursery) -> Pulls:
    """A node that runs, as far as models on the disk go."""
    flags = {"node.datadir": str(cli.datadir)}
    config = load(file=cli.datadir / "config.toml", env={}, flags=flags).config
    quick = Patience(tries=2, first_s=0.01)
    pulls = Pulls(library_of(config), Hub(config.hub.endpoint), patience=quick)
    await nursery.start(pulls.run)
    rpc = Dispatcher(ModelJobs(Jobs(pulls, ["someone/served"])))
    app = build_admin_app(gateway=api.gateway, state=api.state, rpc=rpc)
    listen = f"unix:{cli.datadir / 'admin.sock'}"
    await nursery.start(HttpServer(app, listen=listen, drain_seconds=5).run)
    write_running(cli.datadir, Running(os.getpid(), "12D3KooW", "r3mes1", "127.0.0.1:1", ()))
    return pulls


async def check_life(ask: Ask, datadir: Path) -> None:
    """Pull, list, import and delete."""
    ran = await ask("models", "pull", ID)
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"{ID} at main is {COMMIT[:12]}, 3 MiB in {datadir}/models/")
    assert ran.out.endswith(f"next: r3mes models add {ID}\n")
    job = json.loads((await ask("models", "pull", ID, "--json")).out)
    assert (job["state"], job["done_bytes"]) == ("done", job["total_bytes"])
    assert (await ask("models", "import", job["directory"], "--name", "mine")).code == 0
    lines = (await ask("models", "list")).out.splitlines()
    assert [row.split()[:3] for row in lines[1:]] == [
        ["mine", "main", lines[1].split()[2]], [ID, "main", COMMIT[:12]],
    ]  # fmt: skip
    assert "3 MiB are free" in (await ask("models", "rm", "mine")).out
    assert (await ask("models", "rm", "mine")).code == 78
    assert [one["id"] for one in json.loads((await ask("models", "list", "--json")).out)] == [ID]


async def test_without_a_node(ask: Ask, cli: Cli) -> None:
    assert "next: r3mes models pull" in (await ask("models", "list")).out
    await check_life(ask, cli.datadir)


async def test_by_a_node_that_runs(ask: Ask, node: Pulls, cli: Cli) -> None:
    await check_life(ask, cli.datadir)
    assert [job.model for job in node.jobs()] == ["mine", ID, ID]
    assert (await ask("models", "rm", "someone/served")).code == 2


@pytest.mark.parametrize("running", [True, False])
async def test_why_a_pull_failed(
    ask: Ask, hub: SmallHub, request: pytest.FixtureRequest, running: bool, cli: Cli
) -> None:
    if running:
        request.getfixturevalue("node")
    hub.faults[LARGE] = Fault("wrong")
    ran = await ask("models", "pull", ID)
    assert (ran.code, ran.err.split(":")[0]) == (78, "error R3-ENGINE-003")
    assert "is not what was announced" in ran.err
    for name in ("nonsense", "a/b/c"):
        ran = await ask("models", "pull", name)
        assert (ran.code, ran.err.split(":")[0]) == (2, "error R3-REQ-001")


async def test_a_model_is_added_and_comments_stay(ask: Ask, cli: Cli) -> None:
    ran = await ask("models", "add", ID, "--name", "small")
    assert ran.out.endswith("and served when the node starts: r3mes run\n")
    assert (await ask("models", "add", "builtin")).code == 0
    text = (cli.datadir / "config.toml").read_text()
    assert "# mine" in text
    assert '\n\n[[models]]\nid = "builtin"\n' in text
    assert "# a mirror" in text
    models = load(file=cli.datadir / "config.toml", env={}, flags={}).config.models
    assert [(model.id, model.name) for model in models] == [(ID, "small"), ("builtin", None)]
    ran = await ask("models", "add", "other/small")
    assert (ran.code, "two models are called 'small'" in ran.err) == (78, True)
    assert (cli.datadir / "config.toml").read_text() == text
    await ask("models", "pull", ID)
    assert (await ask("models", "pull", ID)).out.endswith("next: r3mes models load small\n")
    assert (await ask("models", "rm", ID)).code == 2


async def test_ctrl_c_leaves_what_is_there_for_the_next_time(hub: SmallHub, cli: Cli) -> None:
    hub.faults[LARGE] = Fault("stall", after=1 << 20)
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heeding}; from r3mes.node.__main__ import main; main()"  # also if we do not heed it
    command = [sys.executable, "-c", code, "--datadir", str(cli.datadir)]
    process = await trio.lowlevel.open_process(
        [*command, "models", "pull", ID], stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    with trio.fail_after(30):
        part = (
            cli.datadir / "models" / ID.replace("/", "--") / f"{COMMIT}.partial" / f"{LARGE}.part"
        )
        while not part.exists():  # noqa: ASYNC110  a file tells no event
            await trio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = b"".join([piece async for piece in process.stderr]).decode()
        assert await process.wait() == 75
    assert "run the same again: it goes on from here" in said.lower()
    assert "Traceback" not in said


def test_how_a_job_stands_is_told_in_words() -> None:
    job = {
        "id": ID, "note": None, "total_bytes": 4 << 30, "done_bytes": 1 << 30, "bps": 3 << 20,
        "eta_s": 1024.0, "stalled_s": 0.1, "host": "cdn.example", "source": "hub",
    }  # fmt: skip
    assert line(job) == f"{ID}: 1.0 GiB of 4.0 GiB, 3 MiB/s, 17m4s left"
    stalled = line(job | {"stalled_s": 30.4, "bps": 0})
    assert stalled == f"{ID}: 1.0 GiB of 4.0 GiB, no byte for 30 s from cdn.example"
    assert line(job | {"total_bytes": None}) == f"{ID}: asking for the list of files"
    assert line(job | {"note": "it waits"}) == f"{ID}: it waits"
