"""Secrets that get into a message do not get out of it."""

from __future__ import annotations

import pytest
from mnemonic import Mnemonic

from r3mes.node.logs.masking import masked

WORDS = Mnemonic("english").to_mnemonic(bytes(range(32)))  # the same for every worker


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("key r3k_AbCdEf12_" + "x" * 43 + "_0aB9zZ in it", "x" * 43),
        ("Authorization: Bearer sk-abcdefghijklmnop", "sk-abcdefghijklmnop"),
        ("authorization: basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNz"),
        ("hub said no to hf_AbCdEfGhIjKlMnOpQrStUv", "AbCdEfGhIjKlMn"),
        ("open(passphrase='correct horse battery')", "horse"),
        ('{"passphrase": "correct horse battery"}', "horse"),
        ("passphrase=hunter2000, name=x", "hunter2000"),
        ("api_key: 0123456789abcdef", "0123456789abcdef"),
        (f"ValueError: {WORDS}", WORDS.split()[11]),
        (f"please restore {WORDS} now", WORDS.split()[20]),
        (WORDS.replace(" ", "\n"), "\n".join(WORDS.split()[3:6])),
        (WORDS.replace(" ", ", "), ", ".join(WORDS.split()[3:6])),
    ],
)
def test_masked(text: str, secret: str) -> None:
    assert secret in text
    assert secret not in masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "token 3 came where 2 was due",
        "12D3KooWabc: signature of " + "ab" * 32 + " does not hold",
        "a long line about which more than twelve short and plain words can well be said here",
        "basic auth is not bearer auth",
        "r3k_AbCdEf12_… was revoked",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


def test_text_around_wallet_words_stays() -> None:
    assert masked(f"Cannot parse: {WORDS}.") == "Cannot parse: (wallet words) ."
