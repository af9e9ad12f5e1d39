"""Models on the disk: pulled, imported, listed and removed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import Field

from r3mes.errors import BadRequest, ModelMissing, NotFound, NotReady
from r3mes.node.audit import audit
from r3mes.node.jobs import KeptModel, ModelJob
from r3mes.node.rpc.context import Context
from r3mes.node.rpc.method import method

Name = Annotated[str, Field(min_length=1, max_length=128)]
JobId = Annotated[str, Field(max_length=64)]


class Jobs(Protocol):
    """Runs pulls."""

    def pull(self, model: str, revision: str) -> ModelJob: ...
    def take_in(self, path: Path, name: str) -> ModelJob: ...
    def jobs(self, job_id: str | None = None) -> list[ModelJob]: ...
    async def cancel(self, job_id: str) -> ModelJob: ...
    async def kept(self) -> list[KeptModel]: ...
    async def remove(self, model: str) -> int: ...


@dataclass(frozen=True, slots=True)
class JobBegun:
    """A job that runs now, or did already; `model_jobs` shows it."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Removed:
    """What was gained by it."""

    freed_bytes: int


class ModelJobs:
    """The namespace ``model``, what has to do with the disk."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    @method("model_pull", scope="a", errors=(BadRequest, NotReady))
    async def pull(
        self,
        id: Annotated[Name, Field(description="Of the hub: `owner/name`.")],  # noqa: A002
        context: Context,
        revision: Annotated[Name, Field(description="Branch, tag or commit.")] = "main",
    ) -> JobBegun:
        """Begin to pull a model from the hub; what an earlier try has left is not pulled again.

        Every file is checked against the hash that the hub announces. The revision is resolved to
        a commit and stays that one until it is pulled again. The topic `jobs` of `node_subscribe`
        tells every second how the job stands.
        """
        begun = self._jobs.pull(id, revision)
        audit("model_pull_begun", name=id, by=context.key.name, key=context.key.id)
        return JobBegun(begun.job_id)

    @method("model_import", scope="a", errors=(BadRequest, NotReady))
    async def take_in(
        self,
        path: Annotated[str, Field(max_length=4096, description="A directory of this machine.")],
        name: Annotated[Name, Field(description="What it is called from now on.")],
        context: Context,
    ) -> JobBegun:
        """Begin to copy a model from a directory, which the node's user must be able to read."""
        if not path.startswith("/"):
            raise BadRequest("the path of the directory must be absolute", param="path")
        begun = self._jobs.take_in(Path(path), name)
        audit("model_import_begun", name=name, by=context.key.name, key=context.key.id)
        return JobBegun(begun.job_id)

    @method("model_jobs", scope="r", errors=(NotFound,))
    async def jobs(
        self,
        job_id: Annotated[
            JobId | None, Field(description="All, the latest first, if left out.")
        ] = None,
    ) -> list[ModelJob]:
        """Pulls and imports: bytes, rate, what they wait for, and how they ended."""
        return self._jobs.jobs(job_id)

    @method("model_cancelJob", scope="a", errors=(NotFound,))
    async def cancel(self, job_id: JobId) -> ModelJob:
        """End a pull or an import; what it has got so far stays for the next try."""
        return await self._jobs.cancel(job_id)

    @method("model_kept", scope="r")
    async def kept(self) -> list[KeptModel]:
        """The models that were pulled or imported, whether they are served or not."""
        return await self._jobs.kept()

    @method("model_remove", scope="a", errors=(BadRequest, ModelMissing, NotReady))
    async def remove(self, id: Name, context: Context) -> Removed:  # noqa: A002
        """Delete every version of a model that was pulled or imported, if it is not served."""
        freed = await self._jobs.remove(id)
        audit("model_removed", name=id, by=context.key.name, key=context.key.id)
        return Removed(freed)
