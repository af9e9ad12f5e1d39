"""Addresses equal those of cosmjs, and a mistyped one is refused with the reason."""

import hashlib
from typing import Any

import pytest

from r3mes.chain.keys import addresses
from r3mes.chain.keys.addresses import address_of, encode_address, parse_address
from r3mes.errors import BadRequest, EnvelopeRefused

GOOD = "remes19rl4cm2hmr8afy4kldpxz3fka4jguq0arlkp9h"


def test_addresses_equal_those_of_cosmjs(vectors: dict[str, Any]) -> None:
    for key in vectors["keys"]:
        assert address_of("secp256k1", bytes.fromhex(key["pubkey_hex"])) == key["address"]
        assert encode_address(bytes.fromhex(key["address_hex"])) == key["address"]
    for key in vectors["ed25519"]:
        assert address_of("ed25519", bytes.fromhex(key["pubkey_hex"])) == key["address"]


def test_address_works_where_openssl_lacks_ripemd160(
    vectors: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_legacy(name: str, data: bytes) -> None:
        raise ValueError(name)

    key = vectors["keys"][0]
    monkeypatch.setattr(hashlib, "new", without_legacy)
    digest = hashlib.sha256(bytes.fromhex(key["pubkey_hex"])).digest()
    assert addresses._ripemd160(digest).hex() == key["address_hex"]


@pytest.mark.parametrize(
    ("alg", "length"), [("ed25519", 33), ("secp256k1", 32), ("rsa", 32), ("ed25519", 0)]
)
def test_key_of_unknown_kind_has_no_address(alg: str, length: int) -> None:
    with pytest.raises(EnvelopeRefused):
        address_of(alg, b"\x02" * length)


def test_good_address_is_taken() -> None:
    assert parse_address(GOOD) == GOOD


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD[:-1] + "q", "checksum"),
        (GOOD.replace("9", "8", 1), "checksum"),
        ("cosmos19rl4cm2hmr8afy4kldpxz3fka4jguq0auqdal4", "another chain: cosmos1"),
        ("remesvaloper19rl4cm2hmr8afy4kldpxz3fka4jguq0auqnd2c", "another chain"),
        (GOOD.upper(), "small letters"),
        (encode_address(b"short"), "20 bytes"),
        ("", "checksum"),
        ("1" * 5000, "one word"),
        ("remes1é", "small letters"),
    ],
)
def test_bad_address_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_address(text)
    assert reason in refused.value.detail


def test_every_single_typing_error_is_seen() -> None:
    for at in range(6, len(GOOD)):
        for letter in "qpzry9x8":
            if letter != GOOD[at]:
                with pytest.raises(BadRequest):
                    parse_address(GOOD[:at] + letter + GOOD[at + 1 :])
