"""The engine: torch, bf16, the GPU, and each model in a worker that really writes a token."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import trio

from r3mes.actors.inference.actor import ModelActor
from r3mes.actors.inference.choice import TORCH, missing_for
from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.generation import GenerateJob
from r3mes.actors.inference.library import Library
from r3mes.actors.inference.probe import Probed, probe
from r3mes.actors.inference.settings import ModelSettings
from r3mes.actors.inference.source import is_here
from r3mes.config.load import served_name
from r3mes.config.schema import Config, Model
from r3mes.errors import EngineError, R3mesError
from r3mes.node.doctor.finding import Finding, Subject, failed
from r3mes.node.models import model_settings

PATIENCE_S = 600.0
"""For a model to load and to begin an answer."""


async def engine(subject: Subject) -> list[Finding]:
    """What torch finds here."""
    if missing := missing_for(TORCH):
        return [_without_torch(missing, subject.config)]
    try:
        found = await trio.to_thread.run_sync(probe)
    except EngineError as error:
        do = "see that torch is installed for this Python, and that there is memory for it"
        return [Finding("Engine", "fail", error.detail, do)]
    return [_bf16(found), _gpu(found, subject.config), *_sandbox(found)]


def _without_torch(missing: str, config: Config) -> Finding:
    """Models need it, unless they have another engine; a node without models does not."""
    what = f"none, because {missing}"
    waiting = [served_name(one) for one in config.models if _needs_torch(one)]
    if waiting:
        do = "install torch and transformers, or name another engine: docs/engines.md"
        return Finding("Engine", "fail", f"{what}; {waiting[0]} needs it", do)
    return Finding("Engine", "info", f"{what}; requests go to peers and to other engines")


def _needs_torch(model: Model) -> bool:
    return model.upstream_url is None and model.engine in ("auto", "torch")


def _bf16(found: Probed) -> Finding:
    if found.bf16_ms is None:
        do = "see whether the service's sandbox forbids it, or set engine.dtype to float32"
        return Finding(
            "Engine", "fail", f"torch {found.torch} cannot compute in bf16: {found.bf16_error}", do
        )
    return Finding("Engine", "ok", f"torch {found.torch}, bf16 product in {found.bf16_ms} ms")


def _gpu(found: Probed, config: Config) -> Finding:
    if found.gpus:
        return Finding("GPU", "ok", ", ".join(found.gpus))
    if config.engine.require == "cuda" or config.engine.device.startswith("cuda"):
        do = "install the driver and a CUDA build of torch, or allow the CPU in [engine]"
        return Finding("GPU", "fail", found.no_gpu, do)
    return Finding("GPU", "info", f"none, models run on the CPU: {found.no_gpu}")


def _sandbox(found: Probed) -> Iterator[Finding]:
    if found.guarded is False:
        what = "bf16 needs memory that is written and executed, as the shipped unit allows"
        yield Finding("Sandbox", "info", what, "leave MemoryDenyWriteExecute=no in a unit file")


async def models(subject: Subject) -> list[Finding]:
    """Each model that is configured, else the built-in one."""
    builtin = () if missing_for(TORCH) else (Model(id="builtin"),)
    tried = subject.config.models or builtin
    return [await _model(model_settings(model, subject.config)) for model in tried]


async def _model(settings: ModelSettings) -> Finding:
    name = f"Model {settings.name}"
    library = Library(settings.library) if settings.library else None
    look = partial(is_here, settings.source, settings.revision, library)
    if settings.upstream is None and not await trio.to_thread.run_sync(look):
        what = f"{settings.source} is pulled when the node starts; not tried"
        return Finding(name, "info", what)
    actor = ModelActor(settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        finding = await _writes(InferenceClient([actor]), name, settings.name)
        nursery.cancel_scope.cancel()
    return finding


async def _writes(client: InferenceClient, name: str, model: str) -> Finding:
    """Whether ``model``, which is being loaded, writes a token."""
    started = trio.current_time()
    try:
        with trio.fail_after(PATIENCE_S):
            await client.settled()
            loaded = trio.current_time()
            await _one_token(client, model)
    except R3mesError as error:
        return failed(name, error)
    except trio.TooSlowError:
        what = f"it wrote nothing within {PATIENCE_S:.0f} s"
        return Finding(name, "fail", what, "choose a smaller model")
    (manifest,) = client.manifests()
    what = (
        f"{manifest.device} {manifest.dtype}, loaded in {loaded - started:.1f} s, "
        f"first token after {trio.current_time() - loaded:.2f} s"
    )
    return Finding(name, "ok", what)


async def _one_token(client: InferenceClient, name: str) -> None:
    job = GenerateJob(name, [{"role": "user", "content": "Hi"}], max_tokens=1)
    async with client.generate(job, deadline_s=PATIENCE_S) as answer:
        async for _ in answer:
            return
