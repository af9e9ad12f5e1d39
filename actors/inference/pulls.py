"""Pulls as jobs: begun by an operator or by a model that is needed, watched, and cancelled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import trio

from r3mes.actors.inference.imported import DirectorySource
from r3mes.actors.inference.library import NAME, Library
from r3mes.actors.inference.pulling import Patience, Progress, Pull
from r3mes.actors.inference.source import Source
from r3mes.errors import BadRequest, NotFound, NotReady, R3mesError

logger = logging.getLogger(__name__)

KEPT = 50
"""Jobs that ended and are still told of."""
AT_ONCE = 2
TELL_S = 1.0
"""Between two reports of a job that runs."""
IMPORTED = "main"
"""The revision of a model that came from a directory: what is looked for when none is named."""


@dataclass(eq=False, slots=True)
class Job:
    """One pull.

    Args:
        source: where from, for people.
        state: ``queued``, ``running``, ``done``, ``failed`` or ``cancelled``.
        directory: of the model, once it is done.
        error: why it failed.
    """

    id: str
    model: str
    revision: str
    source: str
    progress: Progress
    state: str = "queued"
    directory: Path | None = None
    error: R3mesError | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)


class Pulls:
    """A supervised child: runs the jobs.

    Args:
        library: where models are put.
        hub: where ids lead to.
        tell: called with each job when its state changes, and every second while it runs.
    """

    def __init__(
        self,
        library: Library,
        hub: Source,
        *,
        tell: Callable[[Job], None] = lambda _job: None,
        patience: Patience = Patience(),  # noqa: B008  frozen
    ) -> None:
        self.library = library
        self._hub, self._tell, self._patience = hub, tell, patience
        self._jobs: dict[str, Job] = {}
        self._numbers = count(1)
        self._nursery: trio.Nursery | None = None
        self._room = trio.CapacityLimiter(AT_ONCE)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run what is begun, until cancelled; what is half there then is gone on with later."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                while True:
                    await trio.sleep(TELL_S)
                    for job in self.jobs():
                        if job.state == "running":
                            self._tell(job)
        finally:
            self._nursery = None

    def jobs(self) -> list[Job]:
        """The latest first."""
        return list(reversed(self._jobs.values()))

    def job(self, job_id: str) -> Job:
        """One job; raises `NotFound`."""
        if job_id not in self._jobs:
            raise NotFound(f"there is no job {job_id[:64]!r}", param="job_id")
        return self._jobs[job_id]

    def pull(self, model: str, revision: str) -> Job:
        """Begin to pull from the hub, or join who does already.

        Raises:
            BadRequest: this is no id of a model.
            NotReady: the node is starting or stopping.
        """
        return self._begin(model, revision, self._hub, "hub")

    def take_in(self, directory: Path, name: str) -> Job:
        """Begin to copy a directory under a name; raises as `pull` does."""
        return self._begin(name, IMPORTED, DirectorySource(directory), str(directory))

    def cancel(self, job_id: str) -> Job:
        """End a job; what it has got so far stays for the next one."""
        job = self.job(job_id)
        job.scope.cancel()
        return job

    async def pulled(self, model: str, revision: str) -> Path:
        """The directory of a model from the hub, as soon as it is there.

        Raises:
            R3mesError: what the job failed of.
        """
        job = self.pull(model, revision)
        await job.ended.wait()
        if job.directory is None:
            raise job.error.again() if job.error else NotReady(f"the pull of {model} was cancelled")
        return job.directory

    def _begin(self, model: str, revision: str, source: Source, name: str) -> Job:
        if NAME.fullmatch(model) is None:
            raise BadRequest(f"{model[:128]!r} is no name of a model", param="id")
        if self._nursery is None:
            raise NotReady("the node is starting or stopping", retry_after_s=1)
        for job in self._jobs.values():
            if (job.model, job.revision) == (model, revision) and not job.ended.is_set():
                return job
        pull = Pull(self.library, source, model, revision, self._patience)
        job = Job(f"pull-{next(self._numbers)}", model, revision, name, pull.progress)
        self._jobs[job.id] = job
        self._forget()
        self._nursery.start_soon(partial(self._work, job, pull))
        return job

    def _forget(self) -> None:
        over = [job.id for job in self._jobs.values() if job.ended.is_set()][:-KEPT]
        for job_id in over:
            del self._jobs[job_id]

    async def _work(self, job: Job, pull: Pull) -> None:
        state = "cancelled"
        try:
            with job.scope:
                async with self._room:
                    self._turn(job, "running")
                    job.directory = (await pull.run()).directory
                    state = "done"
        except R3mesError as error:
            job.error, state = error, "failed"
            logger.warning("pulling %s: %s", job.model, error)
        finally:
            self._turn(job, state)
            job.ended.set()

    def _turn(self, job: Job, state: str) -> None:
        job.state = state
        logger.info("%s: %s at %s is %s", job.id, job.model, job.revision, state)
        self._tell(job)
