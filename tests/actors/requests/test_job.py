"""A job comes back as it was, and every number in it has a bound."""

import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r3mes.actors.requests.canonical import pack
from r3mes.actors.requests.header import BODY_CAP
from r3mes.actors.requests.job import GRAMMAR_KINDS, InferJob
from r3mes.errors import BadRequest

MESSAGES = '[{"role":"user","content":"wie spät ist es?"}]'.encode()

jobs = st.builds(
    InferJob,
    messages=st.text(min_size=1, max_size=50).map(str.encode),
    emitted=st.lists(st.integers(0, (1 << 32) - 1), max_size=5).map(tuple),
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1, exclude_min=True),
    top_k=st.integers(0, 1 << 20),
    seed=st.integers(0, (1 << 63) - 1),
    stop=st.lists(st.text(min_size=1, max_size=16), max_size=4).map(tuple),
    min_p=st.floats(0, 1),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    repetition_penalty=st.floats(0, 10, exclude_min=True),
    logit_bias=st.dictionaries(st.integers(0, (1 << 32) - 1), st.floats(-100, 100)).map(
        lambda biases: tuple(sorted(biases.items()))
    ),
    logprobs=st.integers(0, 21),
    tools=st.text(max_size=50).map(str.encode),
) | st.builds(
    InferJob,
    messages=st.just(MESSAGES),
    grammar_kind=st.sampled_from(GRAMMAR_KINDS),
    grammar=st.text(max_size=50),
)


@given(job=jobs)
def test_job_comes_back_as_it_was(job: InferJob) -> None:
    assert InferJob.decode(job.encode()) == job


def test_what_asks_for_nothing_new_is_a_job_of_version_1() -> None:
    assert InferJob.decode(fields()).version == 1
    assert InferJob(MESSAGES, temperature=0.5, stop=("a",)).encode()[1] == 1


def test_whole_numbers_do_for_fractions() -> None:
    job = InferJob(MESSAGES, temperature=0, top_p=1)
    assert InferJob.decode(job.encode()).temperature == 0.0


FIELDS = {"top_logprobs": "logprobs", "tool_choice": "call"}


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("messages", b""),
        ("messages", b"\xff\xfe"),
        ("messages", b" " * (BODY_CAP + 1)),
        ("emitted", (-1,)),
        ("emitted", (1 << 32,)),
        ("emitted", (0,) * (128 * 1024 + 1)),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("top_k", -1),
        ("top_k", (1 << 20) + 1),
        ("seed", -1),
        ("seed", 1 << 63),
        ("stop", ("a",) * 5),
        ("stop", ("",)),
        ("stop", ("ä" * 33,)),
        ("min_p", -0.1),
        ("min_p", math.nan),
        ("presence_penalty", 2.1),
        ("frequency_penalty", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("logit_bias", ((1, 101.0),)),
        ("logit_bias", ((1, math.nan),)),
        ("logit_bias", ((1 << 32, 1.0),)),
        ("logit_bias", ((2, 1.0), (1, 1.0))),
        ("logit_bias", ((1, 1.0), (1, 1.0))),
        ("logit_bias", tuple((token, 1.0) for token in range(1025))),
        ("top_logprobs", 22),
        ("top_logprobs", -1),
        ("grammar", "a"),
        ("tools", b"\xff"),
        ("tools", b" " * (256 * 1024 + 1)),
        ("tool_choice", "f"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_value_out_of_range_is_named(param: str, value: Any) -> None:
    with pytest.raises(BadRequest, match=param) as refused:
        InferJob(**({"messages": MESSAGES} | {FIELDS.get(param, param): value}))
    assert refused.value.param == param


def fields(**changes: Any) -> bytes:
    values: dict[str, Any] = {
        "version": 1,
        "messages": MESSAGES,
        "emitted": b"",
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "seed": 0,
        "stop": (),
    }
    return pack(tuple((values | changes).values()))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"messages": "text"},
        {"emitted": b"123"},
        {"emitted": (1, 2)},
        {"emitted": bytes(4 * (128 * 1024 + 1))},
        {"temperature": 1},
        {"temperature": math.nan},
        {"top_p": True},
        {"top_k": False},
        {"top_k": 0.0},
        {"seed": None},
        {"seed": (1 << 64) - 1},
        {"stop": "a"},
        {"stop": (1,)},
        {"stop": (b"a",)},
        {"stop": ((),)},
        {"stop": ("a" * 65,)},
        {"more": 1},
    ],
    ids=lambda changes: str(changes)[:30],
)
def test_body_that_is_no_job_is_refused(changes: dict[str, Any]) -> None:
    assert InferJob.decode(fields())
    with pytest.raises(BadRequest):
        InferJob.decode(fields(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"grammar_kind": "xml"},
        {"grammar_kind": "regex", "grammar": "\ud800"},
        {"grammar_kind": "regex", "grammar": "a" * (64 * 1024 + 1)},
        {"grammar_kind": "regex", "tools": b"[]", "call": "f"},
        {"tools": b"[]", "call": "no name"},
    ],
    ids=str,
)
def test_a_form_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        InferJob(MESSAGES, **changes)


LATER: dict[str, Any] = {
    "version": 2,
    "min_p": 0.5,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "logit_bias": struct.pack("<Id", 3, 1.5),
    "logprobs": 0,
    "grammar_kind": "",
    "grammar": b"",
    "tools": b"",
    "call": "",
}


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 1},
        {"version": 3},
        {"min_p": 0.0, "logit_bias": b""},  # in version 2 without need
        {"min_p": 1},
        {"logit_bias": b"123"},
        {"logit_bias": struct.pack("<Id", 3, math.nan)},
        {"logprobs": True},
        {"logprobs": 1 << 60},
        {"grammar_kind": b""},
        {"grammar_kind": "regex", "grammar": b"\xff"},
        {"tools": ""},
        {"more": 1},
    ],
    ids=lambda changes: str(changes)[:30],
)
def test_later_body_that_is_no_job_is_refused(changes: dict[str, Any]) -> None:
    assert InferJob.decode(fields(**LATER)).logit_bias == ((3, 1.5),)
    with pytest.raises(BadRequest):
        InferJob.decode(fields(**(LATER | changes)))


def test_token_ids_are_little_endian() -> None:
    assert struct.pack("<2I", 1, 258) in InferJob(MESSAGES, emitted=(1, 258)).encode()


def test_body_over_the_cap_is_refused() -> None:
    with pytest.raises(BadRequest, match="cap"):
        InferJob.decode(bytes(BODY_CAP + 1))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), at=st.integers(0, 60))
def test_hostile_bytes_are_only_refused(data: bytes, at: int) -> None:
    for body in (data, fields()[:at] + data, fields(**LATER)[: at + 20] + data):
        try:
            job = InferJob.decode(body)
        except BadRequest:
            continue
        assert job.encode() == body  # what is taken is canonical
