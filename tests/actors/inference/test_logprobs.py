"""Log-probabilities: those of the model's softmax, and named by the bytes of tokens."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from r3mes.actors.inference.logprobs import PAIR, pairs_of
from r3mes.actors.inference.spelling import Spelling, records_of
from r3mes.actors.requests.logprobs import LEAST, decode_record

LOGITS = np.array([0.0, 2.0, 1.0, 2.0, -1.0], dtype=np.float32)


def told(logits: list[float], token: int, count: int) -> list[tuple[int, float]]:
    packed = pairs_of(np.array(logits, np.float32), token, count)
    return [(int(one["id"]), float(one["value"])) for one in np.frombuffer(packed, PAIR)]


def test_they_are_those_of_the_softmax_with_ties_to_the_lower_id() -> None:
    exact = np.log(np.exp(LOGITS.astype(float)) / np.exp(LOGITS.astype(float)).sum())
    (own, value), *likeliest = told(LOGITS.tolist(), 4, 4)
    assert own == 4
    assert value == pytest.approx(exact[4], abs=1e-6)
    assert [token for token, _ in likeliest] == [1, 3, 2]
    assert [value for _, value in likeliest] == pytest.approx(exact[[1, 3, 2]], abs=1e-6)


def test_its_own_alone() -> None:
    assert [token for token, _ in told(LOGITS.tolist(), 2, 1)] == [2]


def test_impossible_and_strange_ones_have_a_number() -> None:
    assert told([0.0, -np.inf], 1, 3)[0] == (1, LEAST)
    assert {value for _, value in told([np.nan, 0.0], 1, 2)} == {LEAST}


def test_records_follow_one_another() -> None:
    packed = pairs_of(LOGITS, 0, 2) + pairs_of(LOGITS, 4, 2)
    vocabulary = {f"<{token}>": token for token in range(5)}
    first, second = records_of(packed, 2, Spelling(Tokenizer(models.WordLevel(vocabulary, "?"))))
    assert [one.token for one in decode_record(first, 2)] == [b"<0>", b"<1>"]
    (own, _) = decode_record(second, 2)
    assert own.token == b"<4>"
    assert own.value == pytest.approx(-4.0, abs=1)


@pytest.mark.parametrize(
    ("vocabulary", "decoder", "expected"),
    [
        (["Ġa", "Ã", "<|end|>", "é"], decoders.ByteLevel(), [b" a", b"\xc3", b"<|end|>", b"\xe9"]),
        (["▁a", "<0xC3>", "</s>"], decoders.Metaspace(), [b" a", b"\xc3", b"</s>"]),
        (["ä▁b"], None, ["ä b".encode()]),
        (["日Ġ"], decoders.ByteLevel(), ["日Ġ".encode()]),
    ],
)
def test_tokens_are_spelled_in_bytes(
    vocabulary: list[str], decoder: object, expected: list[bytes]
) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(vocabulary)}, "?"))
    if decoder is not None:
        tokenizer.decoder = decoder  # type: ignore[assignment]
    assert [Spelling(tokenizer)(at) for at in range(len(vocabulary))] == expected
    assert Spelling(tokenizer)(999) == b""
