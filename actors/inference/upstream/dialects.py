"""What each kind of server is asked, and what its lines mean.

Servers that take and give token ids are asked by them: the prompt is then what the model's own
template made here, the ids are the server's, and an answer goes on behind what was written
elsewhere.  Others get the messages and give text.

Source: vLLM (``/v1/completions``, ``return_token_ids``, since 0.10), SGLang (``/generate``),
llama.cpp's server (``/completion``, ``return_tokens``), Ollama (``/api/chat``), OpenAI's chat
completions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

OPTIONS = {
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "logit_bias": {},
}
"""What not every server knows, each with the value that says nothing."""
PENALTIES = frozenset({"presence_penalty", "frequency_penalty"})
SEED_BITS = 31
"""Of a seed for servers that take 32 bits, where all ones means another one each time."""


@dataclass(frozen=True, slots=True)
class Question:
    """One answer to ask for.

    Args:
        model: its name there.
        ids: the prompt with what was written before.
        messages: the same as a conversation, without what was written before.
        options: those of `OPTIONS` that say something, all known to the server.
        context: most tokens of prompt and answer.
    """

    model: str
    ids: tuple[int, ...]
    messages: Sequence[Mapping[str, object]]
    max_new: int
    temperature: float
    top_p: float
    options: Mapping[str, Any]
    seed: int
    context: int


@dataclass(frozen=True, slots=True)
class Said:
    """What one line says.

    Args:
        ids: new tokens; None if the server gives text alone.
        reason: ``stop`` or ``length`` when this was the last; else empty.
    """

    ids: tuple[int, ...] | None
    text: str = ""
    reason: str = ""


class Dialect(Protocol):
    """How to talk with one kind of server."""

    name: str
    by_ids: bool
    """It takes token ids, and so what was written before."""
    takes: frozenset[str]
    """The options that it knows, of those in `OPTIONS`."""

    def path(self, base: str) -> str:
        """Where to ask, given the URL that ends in ``/v1``."""

    def body(self, question: Question) -> dict[str, object]: ...

    def hear(self, line: Mapping[str, Any], told: int) -> Said:
        """Read a line; ``told`` tokens were given before.

        Raises:
            KeyError, TypeError, ValueError, IndexError: it has not the form that it should have.
        """


def root(base: str) -> str:
    """Of the server whose OpenAI-compatible part is at ``base``."""
    return base.removesuffix("/v1")


def _reason(said: object) -> str:
    return "" if said is None else "length" if said == "length" else "stop"


class Vllm:
    """vLLM; text instead of ids from versions before 0.10."""

    name, by_ids, takes = "vllm", True, frozenset(OPTIONS)

    def path(self, base: str) -> str:
        return f"{base}/completions"

    def body(self, question: Question) -> dict[str, object]:
        return {
            "model": question.model,
            "prompt": question.ids,
            "max_tokens": question.max_new,
            "temperature": question.temperature,
            "top_p": question.top_p,
            "seed": question.seed,
            "stream": True,
            "return_token_ids": True,
            **question.options,
        }

    def hear(self, line: Mapping[str, Any], told: int) -> Said:
        if not line["choices"]:
            return Said(())
        choice = line["choices"][0]
        ids = choice.get("token_ids")
        return Said(
            None if ids is None else tuple(ids), choice["text"], _reason(choice["finish_reason"])
        )


class Sglang:
    """SGLang, whose own seeds need a mode of their own; asked without."""

    name, by_ids, takes = "sglang", True, frozenset(OPTIONS) - {"logit_bias"}

    def path(self, base: str) -> str:
        return f"{root(base)}/generate"

    def body(self, question: Question) -> dict[str, object]:
        return {
            "input_ids": question.ids,
            "sampling_params": {
                "max_new_tokens": question.max_new,
                "temperature": question.temperature,
                "top_p": question.top_p,
                **question.options,
            },
            "stream": True,
        }

    def hear(self, line: Mapping[str, Any], told: int) -> Said:
        """Its ids are all so far or the new ones, as the server was started; the count tells."""
        ids, about = line["output_ids"], line["meta_info"]
        new = int(about["completion_tokens"]) - told
        if not 0 <= new <= len(ids):
            raise ValueError("completion_tokens and output_ids do not agree")
        finish = about.get("finish_reason")
        return Said(tuple(ids[len(ids) - new :]), "", _reason(finish["type"] if finish else None))


class LlamaCpp:
    """llama.cpp's server."""

    name, by_ids, takes = "llamacpp", True, frozenset(OPTIONS)

    def path(self, base: str) -> str:
        return f"{root(base)}/completion"

    def body(self, question: Question) -> dict[str, object]:
        options = {"top_k": 0, "min_p": 0.0, **question.options}  # its own defaults are others
        return {
            "prompt": question.ids,
            "n_predict": question.max_new,
            "temperature": question.temperature,
            "top_p": question.top_p,
            "repeat_penalty": options.pop("repetition_penalty", 1.0),
            "repeat_last_n": -1,
            "logit_bias": [[int(token), by] for token, by in options.pop("logit_bias", {}).items()],
            **options,
            "seed": question.seed & ((1 << SEED_BITS) - 1),
            "stream": True,
            "return_tokens": True,
            "cache_prompt": True,
        }

    def hear(self, line: Mapping[str, Any], told: int) -> Said:
        ids = line.get("tokens")
        reason = _reason("length" if line.get("stop_type") == "limit" else "stop")
        return Said(
            None if ids is None else tuple(ids), line["content"], reason if line["stop"] else ""
        )


class Ollama:
    """Ollama; told the context, for it would cut a longer prompt without a word."""

    name, by_ids, takes = "ollama", False, frozenset(OPTIONS) - {"logit_bias"}

    def path(self, base: str) -> str:
        return f"{root(base)}/api/chat"

    def body(self, question: Question) -> dict[str, object]:
        options = {"top_k": 0, "min_p": 0.0, **question.options}  # its own defaults are others
        return {
            "model": question.model,
            "messages": question.messages,
            "stream": True,
            "options": {
                "num_predict": question.max_new,
                "num_ctx": question.context,
                "temperature": question.temperature,
                "top_p": question.top_p,
                "seed": question.seed & ((1 << SEED_BITS) - 1),
                "repeat_penalty": options.pop("repetition_penalty", 1.0),
                **options,
            },
        }

    def hear(self, line: Mapping[str, Any], told: int) -> Said:
        reason = _reason(line.get("done_reason", "stop")) if line["done"] else ""
        return Said(None, line.get("message", {}).get("content", ""), reason)


class OpenAi:
    """Whatever else is compatible with OpenAI's chat completions, another node for example."""

    name, by_ids, takes = "openai", False, PENALTIES

    def path(self, base: str) -> str:
        return f"{base}/chat/completions"

    def body(self, question: Question) -> dict[str, object]:
        return {
            "model": question.model,
            "messages": question.messages,
            "max_tokens": question.max_new,
            "temperature": question.temperature,
            "top_p": question.top_p,
            "seed": question.seed,
            "stream": True,
            **question.options,
        }

    def hear(self, line: Mapping[str, Any], told: int) -> Said:
        if not line["choices"]:
            return Said(None)
        choice = line["choices"][0]
        text = choice.get("delta", {}).get("content") or ""
        return Said(None, text, _reason(choice.get("finish_reason")))


OWNERS: Mapping[str, Dialect] = {
    "vllm": Vllm(),
    "sglang": Sglang(),
    "llamacpp": LlamaCpp(),
    "library": Ollama(),
}
"""By what each writes as ``owned_by`` into its list of models."""
OTHERS: Dialect = OpenAi()
