"""What a server says of itself, and what that makes of it as a model of this node."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r3mes.actors.inference.files import read_json
from r3mes.actors.inference.protocol import Loaded
from r3mes.actors.inference.settings import ModelSettings, UpstreamSettings
from r3mes.actors.inference.text_parts import read_text_parts, stop_ids
from r3mes.actors.inference.upstream.dialects import OTHERS, OWNERS, Dialect, root
from r3mes.actors.inference.upstream.server import Server
from r3mes.errors import ModelInvalid, ModelMissing, UpstreamFailed

TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
NAMED = 5
"""Models that are named when the right one is not there."""


@dataclass(frozen=True, slots=True)
class Met:
    """A server that has the model.

    Args:
        context: most tokens that it takes, if it says so.
    """

    dialect: Dialect
    context: int | None


async def meet(server: Server, upstream: UpstreamSettings) -> Met:
    """Ask which models there are, and so what kind of server it is; also the sign of its health.

    Raises:
        UpstreamFailed: it cannot be reached, or is none of the kind.
        ModelMissing: it has not the model.
    """
    listed = await server.ask(f"{upstream.url}/models")
    entry = _entry(listed, upstream.model)
    dialect = OWNERS.get(str(entry.get("owned_by", "")), OTHERS)
    context = entry.get("max_model_len")
    if dialect.name == "llamacpp":
        context = await _slot_context(server, upstream.url)
    return Met(dialect, context if isinstance(context, int) and context > 0 else None)


def _entry(listed: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    entries = listed.get("data")
    if not isinstance(entries, list):
        raise UpstreamFailed("the server does not list its models", do="see upstream_url: …/v1")
    found = {str(one.get("id")): one for one in entries if isinstance(one, dict)}
    if model not in found:
        names = ", ".join(sorted(found)[:NAMED]) or "none"
        raise ModelMissing(
            f"the server has no model {model!r}; it has {names[:300]}",
            do="set id to the name of one of its models",
        )
    return found[model]


async def _slot_context(server: Server, base: str) -> object:
    """What llama.cpp gives each answer, which may be less than the model's own."""
    props = await server.ask(f"{root(base)}/props")
    defaults = props.get("default_generation_settings")
    return defaults.get("n_ctx") if isinstance(defaults, dict) else None


def loaded_of(settings: ModelSettings, upstream: UpstreamSettings, met: Met) -> Loaded:
    """The model as one of this node; reads the tokenizer's files.

    Raises:
        ModelMissing, ModelInvalid: the tokenizer cannot be used, or nobody says how much the
            model takes.
    """
    directory = upstream.tokenizer
    text = read_text_parts(directory)
    config = read_json(directory / "config.json") if (directory / "config.json").is_file() else {}
    return Loaded(
        hash=upstream_hash(upstream.model, directory),
        architecture="unknown",
        parameters=0,
        dtype="unknown",
        device="upstream",
        context=_context(settings, met, config),
        vocabulary=_vocabulary(text.tokenizer, config),
        numeric_class=f"inexact, upstream {met.dialect.name}",
        slots=settings.slots,
        tokenizer=text.tokenizer,
        chat_template=text.chat_template,
        special_tokens=text.special_tokens,
        stop_ids=stop_ids(directory),
    )


def upstream_hash(model: str, tokenizer: Path) -> bytes:
    """SHA-256 over ``upstream``, the model's name there, and the digests of the tokenizer's files.

    Nobody has looked at the weights; two servers of one name may have others.
    """
    files = [tokenizer / name for name in TEXT_FILES if (tokenizer / name).is_file()]
    lines = ["upstream", model, *map(_digest, files)]
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).digest()


def _digest(file: Path) -> str:
    return f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}"


def _context(settings: ModelSettings, met: Met, config: Mapping[str, Any]) -> int:
    own = met.context or config.get("max_position_embeddings")
    known = [one for one in (own, settings.max_context) if isinstance(one, int)]
    if not known:
        raise ModelInvalid(
            "neither the server nor config.json beside the tokenizer says how long prompt and "
            "answer may be",
            do="set max_context of the model",
        )
    return min(known)


def _vocabulary(tokenizer: str, config: Mapping[str, Any]) -> int:
    from tokenizers import Tokenizer

    size = config.get("vocab_size")
    try:
        known = max(Tokenizer.from_str(tokenizer).get_vocab().values(), default=0) + 1
    except Exception as error:
        raise ModelInvalid(f"the tokenizer cannot be used: {error}") from error
    return max(known, size if isinstance(size, int) else 0)
