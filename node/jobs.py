"""Pulls of models as the operator sees them, and the models that are kept on this machine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from r3mes.actors.inference.hub import Hub
from r3mes.actors.inference.library import Kept, Library
from r3mes.actors.inference.pulls import Job, Pulls
from r3mes.config.schema import Config
from r3mes.config.secrets import read_secret
from r3mes.errors import BadRequest
from r3mes.node.models import LIBRARY

STILL_S = 5.0
"""A rate is none when no byte came for so long."""


@dataclass(frozen=True, slots=True)
class ModelJob:
    """A pull or an import.

    Args:
        source: `hub`, or the directory that is imported.
        state: `queued`, `running`, `done`, `failed` or `cancelled`.
        commit: what the revision was found to be.
        was: what it was before, if that was something else.
        total_bytes: None until the source has listed its files.
        bps: bytes a second, lately.
        stalled_s: since the last byte; None unless it runs.
        host: where the last bytes came from.
        note: what it waits for.
        directory: with the files, when it is done.
        code: of the error that it failed of; what happened is in `error`, what to do in `do`.
    """

    job_id: str
    id: str
    revision: str
    source: str
    state: str
    commit: str | None
    was: str | None
    done_bytes: int
    total_bytes: int | None
    bps: float
    eta_s: float | None
    stalled_s: float | None
    host: str | None
    note: str | None
    directory: str | None
    code: str | None
    error: str | None
    do: str | None


@dataclass(frozen=True, slots=True)
class KeptModel:
    """A version of a model in the library.

    Args:
        hash: as the network knows it.
        source: who gave it.
        configured: whether the node serves it, by the configuration in force.
    """

    id: str
    revision: str
    commit: str
    hash: str
    source: str
    bytes: int
    files: int
    pulled_ms: int
    directory: str
    configured: bool


def library_of(config: Config) -> Library:
    """Where a node keeps what it has pulled."""
    return Library(config.node.datadir / LIBRARY)


def hub_of(config: Config) -> Hub:
    """Where it pulls from.

    Raises:
        ConfigError: the token cannot be read.
    """
    token_file = config.hub.token_file
    return Hub(config.hub.endpoint, read_secret(token_file) if token_file else None)


def served_sources(config: Config) -> list[str]:
    """What must not be deleted: the sources of all models and adapters."""
    models = [model.id for model in config.models]
    embedding = [config.embedding.model] if config.embedding.model else []
    return models + embedding + [adapter.id for adapter in config.adapters]


def job_shown(job: Job) -> ModelJob:
    """How it stands now."""
    progress, running = job.progress, job.state == "running"
    stalled_s = progress.stalled_s if running else None
    bps = progress.bps if stalled_s is not None and stalled_s < STILL_S else 0.0
    left = (progress.total_bytes or 0) - progress.done_bytes
    return ModelJob(
        job_id=job.id,
        id=job.model,
        revision=job.revision,
        source=job.source,
        state=job.state,
        commit=progress.commit,
        was=progress.was,
        done_bytes=progress.done_bytes,
        total_bytes=progress.total_bytes,
        bps=round(bps),
        eta_s=round(left / bps, 1) if bps else None,
        stalled_s=None if stalled_s is None else round(stalled_s, 1),
        host=progress.host or None,
        note=(progress.note or None) if running else None,
        directory=str(job.directory) if job.directory else None,
        code=job.error.kind.code if job.error else None,
        error=job.error.detail if job.error else None,
        do=job.error.do if job.error else None,
    )


class Jobs:
    """Begins, shows and cancels pulls; lists and removes what they have brought.

    Args:
        pulls: runs them.
        served: sources of the models and adapters that are configured.
    """

    def __init__(self, pulls: Pulls, served: Collection[str]) -> None:
        self._pulls, self._served = pulls, served

    def pull(self, model: str, revision: str) -> ModelJob:
        return job_shown(self._pulls.pull(model, revision))

    def take_in(self, path: Path, name: str) -> ModelJob:
        return job_shown(self._pulls.take_in(path, name))

    def jobs(self, job_id: str | None = None) -> list[ModelJob]:
        """Raises `NotFound` if there is no such job."""
        found = self._pulls.jobs() if job_id is None else [self._pulls.job(job_id)]
        return [job_shown(job) for job in found]

    async def cancel(self, job_id: str) -> ModelJob:
        """Returns when it has ended; raises `NotFound` if there is no such job."""
        job = self._pulls.cancel(job_id)
        await job.ended.wait()
        return job_shown(job)

    async def kept(self) -> list[KeptModel]:
        found = await trio.to_thread.run_sync(lambda: list(self._pulls.library.every()))
        return [kept_shown(one, self._served) for one in found]

    async def remove(self, model: str) -> int:
        """Delete a model; the bytes that are free then.

        Raises:
            BadRequest: it is configured.
            ModelMissing, NotReady: there is none, or it is being pulled.
        """
        check_unused(model, self._served)
        return await trio.to_thread.run_sync(partial(self._pulls.library.remove, model))


def check_unused(model: str, served: Collection[str]) -> None:
    """Raise `BadRequest` for a model that the node needs."""
    if model in served:
        do = "take it out of [[models]], restart the node, then remove it"
        raise BadRequest(f"the node is configured to serve {model}", param="id", do=do)


def kept_shown(kept: Kept, served: Collection[str]) -> KeptModel:
    """A version as it is told."""
    manifest = kept.manifest
    return KeptModel(
        id=manifest.model,
        revision=manifest.revision,
        commit=manifest.commit,
        hash=manifest.hash,
        source=manifest.source,
        bytes=kept.size,
        files=len(manifest.files),
        pulled_ms=manifest.pulled_ms,
        directory=str(kept.directory),
        configured=manifest.model in served,
    )
