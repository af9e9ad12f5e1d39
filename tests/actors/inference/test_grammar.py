"""Grammars: answers follow them, also from the middle, and those that explode are only refused."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from r3mes.actors.inference.answer import Answer
from r3mes.actors.inference.engine import Job
from r3mes.actors.inference.grammar import compiled
from r3mes.actors.inference.guide import Guides
from r3mes.actors.inference.sampling import Sampling
from r3mes.errors import BadRequest

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
END = len(ALPHABET)
VOCABULARY = END + 8
"""Some rows of the model have no token, as those that were padded."""


def bytewise() -> Tokenizer:
    bpe = Tokenizer(models.BPE({token: at for at, token in enumerate(ALPHABET)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(["<|end|>"])
    return bpe


TOKENIZER = bytewise()
GUIDES = Guides(TOKENIZER.to_str(), VOCABULARY, (END,))
PLAIN = Job(1, (0,), (), Sampling(temperature=1.0, seed=3), 400, frozenset({END}))


def write(grammar: str, job: Job = PLAIN) -> tuple[list[int], str]:
    """What a model that knows nothing writes: the ids, and how it ended."""
    answer, ids = Answer(replace(job, guide=GUIDES.guide(grammar, job.emitted))), list[int]()
    while True:
        rng = np.random.default_rng(answer.position)
        event = answer.choose(rng.normal(0, 1, VOCABULARY).astype(np.float32))
        ids += event.ids
        if event.ended:
            return ids, event.ended


def text_of(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids))


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
FORMS = [
    ("json_schema", json.dumps(SCHEMA), r'\{"name": ?".*", ?"age": ?\d+, ?"kind": ?"(cat|dog)"\}'),
    ("regex", r"[a-c]{3}-\d{2}", r"[a-c]{3}-\d{2}"),
    ("choice", json.dumps(["yes", 'n"o\n', "\x01ä"]), 'yes|n"o\n|\x01ä'),
    ("grammar", 'start: "x"{2,5} ("y" | "z")', "x{2,5}[yz]"),
    ("grammar", 'root ::= "ab" [0-9] [0-9]', "ab[0-9]{2}"),
]


@pytest.mark.parametrize(("kind", "source", "form"), FORMS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_has_the_form(kind: str, source: str, form: str, temperature: float) -> None:
    job = replace(PLAIN, sampling=Sampling(temperature=temperature, seed=3))
    ids, ended = write(compiled(kind, source), job)
    assert ended == "stop"
    assert re.fullmatch(form, text_of(ids), re.DOTALL), text_of(ids)


def test_any_json_object_is_one() -> None:
    ids, ended = write(compiled("json_object", ""), replace(PLAIN, max_new=60))
    assert text_of(ids).startswith("{")
    assert ended == "length" or json.loads(text_of(ids)) is not None


def test_a_continuation_follows_on() -> None:
    grammar = compiled("json_schema", json.dumps(SCHEMA))
    ids, _ = write(grammar)
    for cut in (1, 7, len(ids) - 1, len(ids)):
        assert write(grammar, replace(PLAIN, emitted=tuple(ids[:cut]))) == (ids[cut:], "stop")
    with pytest.raises(BadRequest, match="emitted"):
        write(grammar, replace(PLAIN, emitted=(5,)))


LARGE = [
    ("json_schema", '{"items":' * 2000 + "{}" + "}" * 2000),
    ("json_schema", json.dumps({"$ref": "#/$defs/d0", "$defs": {
        **{f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(1100)}, "d1100": {}}})),
    ("json_schema", json.dumps({"enum": [f"word {i}" for i in range(4000)]})),
    ("regex", "(" * 30_000 + "a" + ")" * 30_000),
    ("regex", "((a{1,999}){1,999}){1,999}"),
    ("regex", "(a|b)*a(a|b){500}"),
    ("grammar", "start: " + '("a"|' * 5000 + '"b"' + ")" * 5000),
    ("grammar", "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(5000)) + 'r5000: "a"'),
    ("grammar", "start: a\na: a a | a a a | \"x\" | \"xx\""),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "source"), LARGE, ids=range(len(LARGE)))
def test_one_that_explodes_is_refused_or_followed_within_its_limits(kind: str, source: str) -> None:
    assert len(source) <= 64 * 1024
    with suppress(BadRequest):
        _, ended = write(compiled(kind, source), replace(PLAIN, max_new=20))
        assert ended in ("stop", "length", "refused")


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("json_schema", ""),
        ("json_schema", "{"),
        ("json_schema", "[]"),
        ("json_schema", '"text"'),
        ("json_schema", '{"type": "nonsense"}'),
        ("json_schema", '{"$ref": "https://example.com/schema.json"}'),
        ("json_schema", '{"const": "\\ud800"}'),
        ("json_schema", '{"not": {}}'),
        ("regex", "(a"),
        ("regex", "(?=a)b"),
        ("choice", "[]"),
        ("choice", "[1]"),
        ("choice", '["\\ud800"]'),
        ("grammar", ""),
        ("grammar", "start: nothing"),
        ("grammar", "nonsense ((("),
    ],
)
def test_what_is_none_is_refused(kind: str, source: str) -> None:
    with pytest.raises(BadRequest, match=f"the {kind} cannot be followed: ."):
        compiled(kind, source)


def test_a_token_that_the_model_does_not_have() -> None:
    with pytest.raises(BadRequest, match="cannot be followed"):
        GUIDES.guide(compiled("grammar", "start: <|nope|>"), ())


def test_a_tokenizer_that_is_of_no_use() -> None:
    with pytest.raises(BadRequest, match="tokenizer is of no use"):
        Guides("{}", 10, (2,)).guide(compiled("regex", "a"), ())
