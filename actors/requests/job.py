"""The body of method ``infer``: what to answer and how to sample.

Layout in canonical msgpack: ``[1, messages, emitted, temperature, top_p, top_k, seed, stop]``, and
if more than that is asked for ``[2, …, min_p, presence_penalty, frequency_penalty,
repetition_penalty, logit_bias, logprobs, grammar_kind, grammar, tools, call]``: what needs nothing
new is understood by older nodes.  Every number has a bound, checked on the value that will be used.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from operator import lt

from r3mes.actors.requests.canonical import pack, unpack
from r3mes.actors.requests.header import BODY_CAP
from r3mes.actors.requests.logprobs import MAX_LIKELIEST
from r3mes.errors import BadRequest

MAX_EMITTED = 128 * 1024
MAX_TEMPERATURE = 2.0
MAX_TOP_K = 1 << 20
MAX_STOPS = 4
STOP_CAP = 64
MAX_PENALTY = 2.0
MAX_REPETITION_PENALTY = 10.0
MAX_BIASED = 1024
MAX_BIAS = 100.0
GRAMMAR_CAP = 64 * 1024
TOOLS_CAP = 256 * 1024
GRAMMAR_KINDS = ("json_object", "json_schema", "regex", "choice", "grammar")
"""Any JSON object; one of a schema; a regular expression; one of a JSON list of texts; rules."""
ANY_CALL = "*"
TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

_BIAS = struct.Struct("<Id")
_FIRST = (int, bytes, bytes, float, float, int, int, tuple)
_SECOND = (*_FIRST, float, float, float, float, bytes, int, str, bytes, bytes, str)


@dataclass(frozen=True, slots=True)
class InferJob:
    """One question, checked when it is made, here or from a peer's bytes.

    Args:
        messages: the conversation as JSON text in UTF-8; its depth is for whoever parses it.
        emitted: ids of tokens that were written already, by a node that went away.
        temperature: 0 to 2; 0 takes the likeliest token.
        top_p: over 0, at most 1.
        top_k: 0 means all.
        seed: 0 to 2^63 - 1; sampling is a function of it.
        stop: at most 4 texts of 1 to 64 bytes.
        min_p: 0 to 1; 0 takes all.
        presence_penalty: -2 to 2, like ``frequency_penalty``.
        repetition_penalty: over 0, at most 10; 1 is none.
        logit_bias: at most 1024 tokens, by rising id, each with -100 to 100.
        logprobs: 0 for none; else 1 and how many of the likeliest tokens, at most 20.
        grammar_kind: one of `GRAMMAR_KINDS`, or empty: the answer is free.
        grammar: its text.
        tools: those that the model is shown, a JSON list in UTF-8 as OpenAI has it; empty for none.
        call: the tool that must be called; ``*`` for any of them, empty if none must.

    Raises:
        BadRequest: which field is out of range.
    """

    messages: bytes
    emitted: tuple[int, ...] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int = 0
    grammar_kind: str = ""
    grammar: str = ""
    tools: bytes = b""
    call: str = ""

    def __post_init__(self) -> None:
        _require(0 < len(self.messages) <= BODY_CAP, "messages", f"1 to {BODY_CAP} bytes")
        _require(_is_utf8(self.messages), "messages", "UTF-8")
        _require(len(self.emitted) <= MAX_EMITTED, "emitted", f"at most {MAX_EMITTED} ids")
        _require(all(0 <= one < 1 << 32 for one in self.emitted), "emitted", "ids of 32 bits")
        _require(0.0 <= self.temperature <= MAX_TEMPERATURE, "temperature", "0 to 2")
        _require(0.0 < self.top_p <= 1.0, "top_p", "over 0 and at most 1")
        _require(0 <= self.top_k <= MAX_TOP_K, "top_k", f"0 to {MAX_TOP_K}")
        _require(0 <= self.seed < 1 << 63, "seed", "0 to 2^63 - 1")
        _require(len(self.stop) <= MAX_STOPS, "stop", f"at most {MAX_STOPS} texts")
        for text in self.stop:
            _require(_is_stop(text), "stop", f"texts of 1 to {STOP_CAP} bytes")
        self._check_sampling()
        self._check_form()

    def _check_sampling(self) -> None:
        _require(0.0 <= self.min_p <= 1.0, "min_p", "0 to 1")
        for param in ("presence_penalty", "frequency_penalty"):
            _require(abs(getattr(self, param)) <= MAX_PENALTY, param, "-2 to 2")
        _require(
            0.0 < self.repetition_penalty <= MAX_REPETITION_PENALTY,
            "repetition_penalty",
            f"over 0 and at most {MAX_REPETITION_PENALTY:g}",
        )
        ids = [token for token, _ in self.logit_bias]
        _require(len(ids) <= MAX_BIASED, "logit_bias", f"at most {MAX_BIASED} tokens")
        _require(all(0 <= one < 1 << 32 for one in ids), "logit_bias", "ids of 32 bits")
        _require(all(map(lt, ids, ids[1:])), "logit_bias", "each token once, by rising id")
        within = all(abs(bias) <= MAX_BIAS for _, bias in self.logit_bias)
        _require(within, "logit_bias", f"-{MAX_BIAS:g} to {MAX_BIAS:g}")
        most = f"none, or 0 to {MAX_LIKELIEST} of the likeliest"
        _require(0 <= self.logprobs <= 1 + MAX_LIKELIEST, "top_logprobs", most)

    def _check_form(self) -> None:
        kind, size = self.grammar_kind, len(self.grammar.encode(errors="replace"))
        _require(_is_text(self.grammar), "grammar", "UTF-8")
        _require(kind in ("", *GRAMMAR_KINDS), "grammar", f"one of {', '.join(GRAMMAR_KINDS)}")
        _require(size <= GRAMMAR_CAP, "grammar", f"at most {GRAMMAR_CAP} bytes")
        _require(bool(kind) or not size, "grammar", "of a kind")
        _require(len(self.tools) <= TOOLS_CAP, "tools", f"at most {TOOLS_CAP} bytes")
        _require(_is_utf8(self.tools), "tools", "UTF-8")
        named = self.call in ("", ANY_CALL) or bool(TOOL_NAME.fullmatch(self.call))
        _require(named, "tool_choice", "the name of a tool")
        _require(bool(self.tools) or not self.call, "tool_choice", "of the tools that are given")
        free = not (self.call and kind)
        _require(free, "tool_choice", "a call that is forced, or a form of the answer, not both")

    @property
    def version(self) -> int:
        """Of the layout: 2 if more is asked for than nodes of version 1 understand."""
        return 1 if self._news() == _NO_NEWS else 2

    def encode(self) -> bytes:
        emitted = struct.pack(f"<{len(self.emitted)}I", *self.emitted)
        numbers = float(self.temperature), float(self.top_p), self.top_k, self.seed
        first = self.messages, emitted, *numbers, self.stop
        news = self._news()
        return pack((1, *first)) if news == _NO_NEWS else pack((2, *first, *news))

    def _news(self) -> tuple[object, ...]:
        return (
            float(self.min_p),
            float(self.presence_penalty),
            float(self.frequency_penalty),
            float(self.repetition_penalty),
            b"".join(_BIAS.pack(token, bias) for token, bias in self.logit_bias),
            self.logprobs,
            self.grammar_kind,
            self.grammar.encode(),
            self.tools,
            self.call,
        )

    @classmethod
    def decode(cls, body: bytes) -> InferJob:
        """Read a job from a peer.

        Raises:
            BadRequest: not canonical, or a field is out of range.
        """
        if len(body) > BODY_CAP:
            raise BadRequest(f"the job has {len(body)} bytes, the cap is {BODY_CAP}")
        version = 2 if body[:1] == _LONG else 1
        told, messages, emitted, *rest = unpack(
            body,
            _SECOND if version == 2 else _FIRST,
            "job",
            max_bytes=BODY_CAP,
            max_text=STOP_CAP,
            error=BadRequest,
        )
        if told != version or len(emitted) % 4:
            raise BadRequest("the job is of another version, or its token ids are cut off")
        if version == 2:
            rest[9], rest[12] = _bias(rest[9]), _text(rest[12])
        job = cls(messages, struct.unpack(f"<{len(emitted) // 4}I", emitted), *rest)
        if job.version != version:
            raise BadRequest("the job asks for nothing new, and is not in the layout for that")
        return job


_NO_NEWS = (0.0, 0.0, 0.0, 1.0, b"", 0, "", b"", b"", "")
_LONG = b"\xdc"
"""How msgpack begins an array of more than 15 fields."""


def _bias(packed: bytes) -> tuple[tuple[int, float], ...]:
    if len(packed) % _BIAS.size:
        raise BadRequest("the biases of the job are cut off", param="logit_bias")
    return tuple(_BIAS.iter_unpack(packed))


def _text(data: bytes) -> str:
    if not _is_utf8(data):
        raise BadRequest("grammar is out of range: UTF-8", param="grammar")
    return data.decode()


def _require(holds: bool, param: str, allowed: str) -> None:
    if not holds:
        raise BadRequest(f"{param} is out of range: {allowed}", param=param)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_stop(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text.encode(errors="replace")) <= STOP_CAP
