"""Records of log-probabilities: come back as they were, and nothing else is taken for one."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3mes.actors.requests.canonical import pack
from r3mes.actors.requests.logprobs import LEAST, Logprob, decode_record, encode_record
from r3mes.errors import WireError

entries = st.builds(Logprob, st.binary(max_size=256), st.floats(LEAST, 0))


@given(st.lists(entries, min_size=1, max_size=21))
def test_a_record_comes_back_as_it_was(told: list[Logprob]) -> None:
    assert decode_record(encode_record(told), len(told)) == tuple(told)


def test_a_long_token_is_cut() -> None:
    (entry,) = decode_record(encode_record([Logprob(b"x" * 300, -1.0)]), 1)
    assert entry.token == b"x" * 256


ONE = (-1.0, b"a")


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (ONE,),
        (ONE,) * 3,
        (ONE, (-1, b"a")),
        (ONE, (-1.0, "a")),
        (ONE, (0.5, b"a")),
        (ONE, (-math.inf, b"a")),
        (ONE, (math.nan, b"a")),
        (ONE, (-1.0, b"x" * 257)),
        (ONE, (-1.0,)),
    ],
    ids=str,
)
def test_anything_else_is_refused(fields: tuple[object, ...]) -> None:
    assert decode_record(pack((ONE, ONE)), 2)
    with pytest.raises(WireError):
        decode_record(pack(fields), 2)


@given(st.binary(max_size=40))
def test_hostile_bytes_are_only_refused(data: bytes) -> None:
    try:
        told = decode_record(data, 1)
    except WireError:
        return
    assert encode_record(told) == data
