"""Both halves of a receipt hold for the two accounts that made them, and for these bytes only."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.attacks import MODEL, flipped
from r3mes.actors.requests.canonical import framed, pack
from r3mes.actors.requests.receipt import (
    RESULT_DOMAIN,
    Result,
    countersign,
    sign_result,
    verify_countersignature,
    verify_result,
)
from r3mes.chain.keys.signing import Ed25519Signer, Secp256k1Signer, Signer
from r3mes.errors import EnvelopeRefused, Refused
from r3mes.ids import RequestHash

SERVERS: list[Signer] = [Secp256k1Signer(b"s" * 32), Ed25519Signer(b"s" * 32)]
PAYER = Secp256k1Signer(b"p" * 32)
MALLORY = Secp256k1Signer(b"m" * 32)
SERVER = SERVERS[0]
RESULT = Result(
    request_hash=RequestHash(b"r" * 32),
    output_sha256=b"o" * 32,
    prompt_tokens=12,
    completion_tokens=34,
    price=56,
    model=MODEL,
    commitments=b"",
    status="stop",
    server=SERVER.address,
)
SIGNED = sign_result(SERVER, RESULT)
COUNTER = countersign(PAYER, SIGNED.result, SIGNED.signature)


@pytest.mark.parametrize("server", SERVERS, ids=lambda one: one.alg)
def test_signed_result_holds_for_its_server(server: Signer) -> None:
    result = replace(RESULT, server=server.address, commitments=b"c" * 60_000)
    signed = sign_result(server, result)
    assert verify_result(signed.result, signed.signature, wallet=server.address) == result


def test_result_of_another_account_is_refused() -> None:
    forged = sign_result(MALLORY, RESULT)
    for wallet in (SERVER.address, MALLORY.address):
        with pytest.raises(EnvelopeRefused, match="another account"):
            verify_result(forged.result, forged.signature, wallet=wallet)
    with pytest.raises(EnvelopeRefused, match="another account"):
        verify_result(SIGNED.result, SIGNED.signature, wallet=MALLORY.address)


def test_raised_price_is_refused() -> None:
    dearer = replace(RESULT, price=57).encode()
    with pytest.raises(EnvelopeRefused, match="does not hold"):
        verify_result(dearer, SIGNED.signature, wallet=SERVER.address)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_tokens": -1},
        {"price": 1 << 63},
        {"completion_tokens": True},
        {"completion_tokens": 1.0},
        {"request_hash": b"r" * 31},
        {"output_sha256": b""},
        {"model": b"m" * 33},
        {"commitments": bytes(61 * 1024)},
        {"commitments": bytes(70 * 1024)},
        {"status": "s" * 65},
        {"status": b"stop"},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_result_out_of_range_is_refused_though_signed(changes: dict[str, Any]) -> None:
    signed = sign_result(SERVER, replace(RESULT, **changes))
    with pytest.raises(EnvelopeRefused):
        verify_result(signed.result, signed.signature, wallet=SERVER.address)


def test_result_of_another_version_is_refused() -> None:
    encoded = RESULT.encode().replace(b"\x9a\x01", b"\x9a\x02", 1)
    with pytest.raises(EnvelopeRefused, match="version 2"):
        Result.decode(encoded)


def test_countersignature_holds_for_the_payer() -> None:
    verify_countersignature(SIGNED.result, SIGNED.signature, COUNTER, sub=PAYER.address)
    for sub in (SERVER.address, MALLORY.address):
        with pytest.raises(EnvelopeRefused, match="the payer's"):
            verify_countersignature(SIGNED.result, SIGNED.signature, COUNTER, sub=sub)


def test_session_key_may_countersign_what_it_asked() -> None:
    session = Ed25519Signer(b"k" * 32)
    counter = countersign(session, SIGNED.result, SIGNED.signature)
    receipt = SIGNED.result, SIGNED.signature, counter
    verify_countersignature(*receipt, sub=PAYER.address, pub=session.pub)
    for pub in (b"", MALLORY.pub):
        with pytest.raises(EnvelopeRefused, match="the payer's"):
            verify_countersignature(*receipt, sub=PAYER.address, pub=pub)


def test_one_half_does_not_count_for_the_other() -> None:
    with pytest.raises(EnvelopeRefused, match="does not hold"):
        verify_countersignature(
            SIGNED.result, SIGNED.signature, SIGNED.signature, sub=SERVER.address
        )
    bare = pack((SERVER.alg, SERVER.pub, SERVER.sign(SIGNED.result)))
    with pytest.raises(EnvelopeRefused, match="does not hold"):
        verify_result(SIGNED.result, bare, wallet=SERVER.address)


def test_countersignature_covers_the_border_between_its_parts() -> None:
    assert framed(RESULT_DOMAIN, b"ab", b"c") != framed(RESULT_DOMAIN, b"a", b"bc")
    with pytest.raises(EnvelopeRefused):
        verify_countersignature(SIGNED.result + SIGNED.signature, b"", COUNTER, sub=PAYER.address)


def test_no_single_bit_can_be_changed() -> None:
    for bit in range(0, len(SIGNED.result) * 8, 3):
        with pytest.raises(EnvelopeRefused):
            verify_result(flipped(SIGNED.result, bit), SIGNED.signature, wallet=SERVER.address)
    for bit in range(len(SIGNED.signature) * 8):
        with pytest.raises(EnvelopeRefused):
            verify_result(SIGNED.result, flipped(SIGNED.signature, bit), wallet=SERVER.address)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300))
def test_hostile_bytes_are_only_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        verify_result(data, SIGNED.signature, wallet=SERVER.address)
    with pytest.raises(Refused):
        verify_result(SIGNED.result, data, wallet=SERVER.address)
    with pytest.raises(Refused):
        verify_countersignature(SIGNED.result, SIGNED.signature, data, sub=PAYER.address)
