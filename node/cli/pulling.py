"""A pull or an import from the terminal: by the node that runs, else in this process.

Either way the same job is watched, and drawn as a bar on a terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, Self

import msgspec

from r3mes.config.schema import Config
from r3mes.errors import REGISTRY, NotReady, R3mesError
from r3mes.node.cli.api import call
from r3mes.node.cli.output import duration, say, show, show_json, size
from r3mes.node.running import read_running

LOOK_S = 0.3
SAY_S = 10.0
"""Between two lines where there is no terminal to draw on."""
ENDED = ("done", "failed", "cancelled")


class Drawing(AbstractContextManager["Drawing"], Protocol):
    """Shows a job again and again."""

    def draw(self, job: Mapping[str, Any]) -> None: ...


def pull(config: Config, model: str, revision: str, *, json: bool) -> Mapping[str, Any]:
    """Pull a model; the job that is done.

    Raises:
        R3mesError: what it failed of.
    """
    if read_running(config.node.datadir) is not None:
        return _follow(config, "model_pull", {"id": model, "revision": revision}, json=json)
    return _here(config, lambda pulls: pulls.pull(model, revision), json=json)


def take_in(config: Config, path: Path, name: str, *, json: bool) -> Mapping[str, Any]:
    """Import a directory; raises as `pull` does."""
    if read_running(config.node.datadir) is not None:
        return _follow(config, "model_import", {"path": str(path), "name": name}, json=json)
    return _here(config, lambda pulls: pulls.take_in(path, name), json=json)


def _follow(
    config: Config, method: str, params: dict[str, str], *, json: bool
) -> Mapping[str, Any]:
    """Have the node do it, and look how it stands until it has ended."""
    job_id = call(config, method, patience_s=0.0, socket_only=False, **params)["job_id"]
    try:
        with _drawing(json=json) as drawing:
            while (job := call(config, "model_jobs", job_id=job_id)[0])["state"] not in ENDED:
                drawing.draw(job)
                time.sleep(LOOK_S)
    except KeyboardInterrupt:
        job = call(config, "model_cancelJob", job_id=job_id)
    return _ended(job, json=json)


def _here(config: Config, begin: Callable[[Any], Any], *, json: bool) -> Mapping[str, Any]:
    """Do it in this process; Ctrl-C leaves what is there for the next time."""
    import trio

    from r3mes.actors.inference.pulls import Job, Pulls
    from r3mes.node.jobs import hub_of, job_shown, library_of

    async def work() -> Mapping[str, Any]:
        pulls, job, refused = Pulls(library_of(config), hub_of(config)), None, None
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(pulls.run)
                try:
                    job = begin(pulls)
                    await watch(job)
                except R3mesError as error:  # raised below, without the nursery's group
                    refused = error
                nursery.cancel_scope.cancel()
        except* KeyboardInterrupt:
            pass
        if refused is not None:
            raise refused
        if job is None:
            raise KeyboardInterrupt
        shown: Mapping[str, Any] = msgspec.to_builtins(job_shown(job))
        return shown

    async def watch(job: Job) -> None:
        with _drawing(json=json) as drawing:
            while not job.ended.is_set():
                drawing.draw(msgspec.to_builtins(job_shown(job)))
                with trio.move_on_after(LOOK_S):
                    await job.ended.wait()

    return _ended(trio.run(work), json=json)


def _ended(job: Mapping[str, Any], *, json: bool) -> Mapping[str, Any]:
    if json:
        show_json(job)
    if job["state"] == "failed":
        raise REGISTRY.get(job["code"], R3mesError)(job["error"], do=job["do"])
    if job["state"] == "cancelled":
        raise NotReady(
            f"the pull of {job['id']} was cancelled", do="run the same again: it goes on from here"
        )
    if not json:
        what = f"{job['id']} at {job['revision']} is {job['commit'][:12]}"
        show(f"{what}, {size(job['total_bytes'])} in {job['directory']}")
        if job["was"]:
            say(f"{job['revision']} was {job['was'][:12]} before.")
    return job


def line(job: Mapping[str, Any]) -> str:
    """How a job stands, in words."""
    if job["note"]:
        return f"{job['id']}: {job['note']}"
    if job["total_bytes"] is None:
        return f"{job['id']}: asking for the list of files"
    words = [f"{job['id']}: {size(job['done_bytes'])} of {size(job['total_bytes'])}"]
    if job["stalled_s"] is not None and job["stalled_s"] >= SAY_S:
        words.append(f"no byte for {job['stalled_s']:.0f} s from {job['host'] or job['source']}")
    elif job["bps"]:
        words.append(f"{size(job['bps'])}/s, {duration(job['eta_s'] or 0)} left")
    return ", ".join(words)


def _drawing(*, json: bool) -> Drawing:
    return _Bar() if sys.stderr.isatty() and not json else _Lines()


class _Lines:
    """A line now and then."""

    def __enter__(self) -> Self:
        self._at = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def draw(self, job: Mapping[str, Any]) -> None:
        if (now := time.monotonic()) - self._at >= SAY_S:
            self._at = now
            say(line(job))


class _Bar:
    """A bar that moves."""

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = BarColumn(bar_width=30), TextColumn("{task.description}", markup=False)
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("", total=None)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def draw(self, job: Mapping[str, Any]) -> None:
        total, done = job["total_bytes"], job["done_bytes"]
        self._progress.update(self._task, total=total, completed=done, description=line(job))
