"""The models of this node, as serving and routing see them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal

import msgspec

from r3mes.actors.inference.client import InferenceClient
from r3mes.actors.inference.generation import GenerateJob, Generation
from r3mes.actors.inference.settings import AdapterSettings, ModelSettings, UpstreamSettings
from r3mes.actors.requests.job import ANY_CALL, InferJob
from r3mes.config.load import served_name
from r3mes.config.paths import programs_directory
from r3mes.config.schema import Adapter, Config, Model
from r3mes.errors import BadRequest
from r3mes.ids import ModelHash
from r3mes.p2p.protocols.infer import ModelOffer

LIBRARY = "models"
"""In the data directory: what was pulled."""


class OwnModels:
    """The models of this node: what it offers, and how serving has them write."""

    def __init__(
        self, models: Sequence[Model], adapters: Sequence[Adapter], inference: InferenceClient
    ) -> None:
        self._inference = inference
        self._adapters = {f"{one.model}:{one.name}": one for one in adapters}
        self.price(models)

    def price(self, models: Sequence[Model]) -> None:
        """Take the prices from these from now on; answers under way keep theirs."""
        self._prices = {served_name(model): model for model in models}

    def prices_of(self, name: str) -> tuple[int, int]:
        """Of prompt and answer; an adapter without a price of its own costs what its model does."""
        model, adapter = self._prices[name.partition(":")[0]], self._adapters.get(name)
        own = (adapter.price_prompt, adapter.price_completion) if adapter else (None, None)
        prompt, completion = own
        return (
            model.price_prompt if prompt is None else prompt,
            model.price_completion if completion is None else completion,
        )

    def offers(self) -> tuple[ModelOffer, ...]:
        """Of the models that are ready."""
        return tuple(
            ModelOffer(
                manifest.name,
                manifest.hash,
                manifest.context,
                *self.prices_of(manifest.name),
            )
            for manifest in self._inference.manifests()
        )

    def explain(self, model: str) -> None:
        """Raise why ``model`` cannot write now, if it is one of this node's and cannot."""
        self._inference.explain(model)

    def check_room(self, model: str, deadline_s: float) -> None:
        self._inference.check_room(model, deadline_s)

    def generate(
        self, model: str, job: InferJob, *, max_tokens: int | None, deadline_s: float
    ) -> AbstractAsyncContextManager[Generation]:
        return self._inference.generate(
            GenerateJob(
                model=model,
                messages=_messages(job),
                emitted=job.emitted,
                max_tokens=max_tokens,
                temperature=job.temperature,
                top_p=job.top_p,
                top_k=job.top_k,
                seed=job.seed,
                stop=job.stop,
                min_p=job.min_p,
                presence_penalty=job.presence_penalty,
                frequency_penalty=job.frequency_penalty,
                repetition_penalty=job.repetition_penalty,
                logit_bias=job.logit_bias,
                logprobs=job.logprobs,
                grammar_kind=job.grammar_kind,
                grammar=job.grammar,
                tools=_tools(job),
                call=job.call,
            ),
            deadline_s=deadline_s,
        )


def _messages(job: InferJob) -> list[dict[str, object]]:
    try:
        return msgspec.json.decode(job.messages, type=list[dict[str, object]])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"messages is no list of objects: {error}", param="messages") from None


class _Function(msgspec.Struct):
    name: str
    description: str = ""
    parameters: dict[str, object] | None = None


class _Tool(msgspec.Struct):
    function: _Function
    type: Literal["function"] = "function"


def _tools(job: InferJob) -> list[dict[str, object]]:
    if not job.tools:
        return []
    try:
        named = msgspec.json.decode(job.tools, type=list[_Tool])
        tools = msgspec.json.decode(job.tools, type=list[dict[str, object]])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"tools is no list of functions: {error}", param="tools") from None
    if job.call and not tools:
        raise BadRequest("there is no tool that could be called", param="tool_choice")
    if job.call not in ("", ANY_CALL, *(tool.function.name for tool in named)):
        raise BadRequest(f"there is no tool {job.call}", param="tool_choice")
    return tools


def model_settings(model: Model, config: Config) -> ModelSettings:
    """What the engine is told of a model that is configured."""
    return ModelSettings(
        name=served_name(model),
        source=model.id,
        library=config.node.datadir / LIBRARY,
        revision=model.revision or "main",
        engine=model.engine,
        upstream=_upstream(model),
        device="cuda" if config.engine.require == "cuda" else config.engine.device,
        dtype=config.engine.dtype,
        max_context=model.max_context,
        memory_bytes=config.engine.memory_bytes,
        idle_s=None if config.engine.idle_minutes is None else config.engine.idle_minutes * 60,
        pinned=model.pinned,
        kv_bytes=config.engine.kv_bytes,
        slots=model.slots or config.limits.slots,
        queue=config.limits.queue,
        programs=programs_directory() if config.engine.compile else None,
        weights=model.weights,
        cache=config.node.datadir / "cache",
        adapters=tuple(
            adapter_settings(adapter)
            for adapter in config.adapters
            if adapter.model == served_name(model)
        ),
        adapter_places=config.limits.adapters,
    )


def adapter_settings(adapter: Adapter) -> AdapterSettings:
    """What the engine is told of an adapter that is configured."""
    return AdapterSettings(
        name=adapter.name,
        source=adapter.id,
        revision=adapter.revision or "main",
        hash=ModelHash(bytes.fromhex(adapter.hash)) if adapter.hash else None,
    )


def _upstream(model: Model) -> UpstreamSettings | None:
    if model.upstream_url is None or model.tokenizer is None:
        return None
    return UpstreamSettings(
        url=model.upstream_url.rstrip("/"),
        model=model.id,
        tokenizer=model.tokenizer,
        key_file=model.upstream_key_file,
    )
