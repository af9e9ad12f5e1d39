"""The form that an answer must have: a grammar, checked before any work starts.

llguidance does the work (Rust, without torch): an Earley parser over the bytes of tokens.  The
daemon checks a grammar with tokens of single bytes; the worker compiles it for its model's tokens
(`r3mes.actors.inference.guide`).  Both within `LIMITS`, so that a grammar that explodes is refused,
at the latest in the step where it does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from llguidance import LLMatcher, LLParserLimits
from llguidance.gbnf_to_lark import any_to_lark

from r3mes.actors.inference.deep import on_deep_stack
from r3mes.errors import BadRequest

LIMITS = LLParserLimits(
    max_items_in_row=2_000,
    initial_lexer_fuel=1_000_000,  # about 20 ms
    step_lexer_fuel=200_000,  # about 15 ms
    step_max_items=50_000,  # about 3 ms
    max_lexer_states=20_000,  # about 40 MB
    max_grammar_size=100_000,
    verbose_errors=False,
)
SAYING_CAP = 300
"""Most characters of what llguidance says about a grammar."""
JSON_FORM = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""JSON on one line: a model that may write white space anywhere may never stop writing it."""


def compiled(kind: str, source: str) -> str:
    """A grammar in llguidance's own form, checked.

    Args:
        kind: one of `r3mes.actors.requests.job.GRAMMAR_KINDS`.
        source: untrusted, of 64 KiB at most.

    Raises:
        BadRequest: it is none, or larger than `LIMITS`.
    """
    return on_deep_stack(lambda: _compiled(kind, source))


def compiled_lark(lark: str) -> str:
    """A Lark grammar that we wrote around what a caller gave, checked as by `compiled`."""

    def check() -> str:
        return _checked("tools", LLMatcher.grammar_from_lark(lark))

    return on_deep_stack(check)


def _compiled(kind: str, source: str) -> str:
    try:
        grammar = _translated(kind, source)
    except Exception as error:  # noqa: BLE001  llguidance's reader of GBNF raises just that
        raise refused(kind, str(error) or type(error).__name__) from None
    return _checked(kind, grammar)


def _checked(kind: str, grammar: str) -> str:
    wrong, said = LLMatcher.validate_grammar_with_warnings(grammar, None, limits=LIMITS)
    if wrong:
        raise refused(kind, said[0])
    return grammar


def _translated(kind: str, source: str) -> str:
    match kind:
        case "json_object":
            return json_grammar('{"type": "object"}')
        case "json_schema":
            return json_grammar(source)
        case "regex":
            return LLMatcher.grammar_from_regex(source)
        case "choice":
            return LLMatcher.grammar_from_regex("|".join(map(_literal, _texts(source))))
        case _:
            return LLMatcher.grammar_from_lark(any_to_lark(source))


def json_grammar(schema: str) -> str:
    """The grammar of JSON that a schema describes."""
    return LLMatcher.grammar_from_json_schema(schema, overrides=JSON_FORM)  # type: ignore[arg-type]


def quoted(text: str) -> str:
    """``text`` as a literal of a Lark grammar."""
    return json.dumps(text, ensure_ascii=False)


def _texts(source: str) -> Sequence[str]:
    texts = json.loads(source)
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts):
        raise ValueError("not a list of texts")
    return texts


def _literal(text: str) -> str:
    """A regular expression for ``text`` alone."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


def refused(kind: str, why: str) -> BadRequest:
    """What is said about a grammar that cannot be used."""
    line = " ".join(why.split())[:SAYING_CAP]
    return BadRequest(f"the {kind} cannot be followed: {line}", param="grammar")
