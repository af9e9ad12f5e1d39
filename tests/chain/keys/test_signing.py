"""Both kinds of key sign as other wallets do, and only the one true signature verifies."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r3mes.chain.keys.signing import Ed25519Signer, Secp256k1Signer, Signer, verify

MESSAGE = b"what was said"
SIGNERS: list[Signer] = [Ed25519Signer(b"a" * 32), Secp256k1Signer(b"a" * 32)]
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
SECP256K1_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141

each_signer = pytest.mark.parametrize("signer", SIGNERS, ids=lambda signer: signer.alg)


def test_signatures_equal_those_of_other_wallets(vectors: dict[str, Any]) -> None:
    (machine,) = vectors["ed25519"]
    signer = Ed25519Signer(bytes.fromhex(machine["seed_hex"]))
    assert signer.pub.hex() == machine["pubkey_hex"]
    assert signer.sign(machine["msg_utf8"].encode()).hex() == machine["sig_hex"]

    by_address = {key["address"]: key for key in vectors["keys"]}
    for text in vectors["adr036"]:
        account = Secp256k1Signer(bytes.fromhex(by_address[text["signer"]]["privkey_hex"]))
        signature = account.sign(text["sign_bytes_utf8"].encode())
        assert base64.b64encode(signature).decode() == text["signature_b64"]


@each_signer
def test_signature_holds_for_its_message_and_key_only(signer: Signer) -> None:
    signature = signer.sign(MESSAGE)
    assert verify(signer.alg, signer.pub, MESSAGE, signature)
    assert not verify(signer.alg, signer.pub, MESSAGE + b"!", signature)
    others: dict[str, Signer] = {
        "ed25519": Ed25519Signer(b"b" * 32),
        "secp256k1": Secp256k1Signer(b"b" * 32),
    }
    assert not verify(signer.alg, others[signer.alg].pub, MESSAGE, signature)


@each_signer
@pytest.mark.parametrize("length", [0, 63, 65, 128])
def test_signature_of_another_length_is_none(signer: Signer, length: int) -> None:
    assert not verify(signer.alg, signer.pub, MESSAGE, (signer.sign(MESSAGE) * 2)[:length])


@each_signer
def test_signature_cannot_swallow_the_start_of_the_message(signer: Signer) -> None:
    signature = signer.sign(MESSAGE)
    assert not verify(signer.alg, signer.pub, MESSAGE[4:], signature + MESSAGE[:4])


@each_signer
def test_zeros_are_no_signature(signer: Signer) -> None:
    assert not verify(signer.alg, signer.pub, MESSAGE, bytes(64))


def test_high_s_twin_is_refused() -> None:
    signer = SIGNERS[1]
    signature = signer.sign(MESSAGE)
    twin = SECP256K1_ORDER - int.from_bytes(signature[32:], "big")
    assert not verify("secp256k1", signer.pub, MESSAGE, signature[:32] + twin.to_bytes(32, "big"))


def test_s_plus_order_twin_is_refused() -> None:
    signer = SIGNERS[0]
    signature = signer.sign(MESSAGE)
    twin = ED25519_ORDER + int.from_bytes(signature[32:], "little")
    assert not verify("ed25519", signer.pub, MESSAGE, signature[:32] + twin.to_bytes(32, "little"))


@pytest.mark.parametrize(
    "key",
    [
        b"\x01" + bytes(31),
        bytes(32),
        bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    ],
    ids=["neutral", "order 4", "order 2", "order 8", "order 8, the other"],
)
def test_small_order_key_signs_nothing(key: bytes) -> None:
    base = bytes.fromhex("58" + "66" * 31)  # R = B, S = 1 would hold for the neutral point
    assert not verify("ed25519", key, MESSAGE, base + b"\x01" + bytes(31))


@pytest.mark.parametrize("pub", [bytes(33), b"\x02" + b"\xff" * 32, b"\x04" + bytes(32), b""])
def test_what_is_no_point_verifies_nothing(pub: bytes) -> None:
    assert not verify("secp256k1", pub, MESSAGE, SIGNERS[1].sign(MESSAGE))


def test_unknown_algorithm_verifies_nothing() -> None:
    assert not verify("none", SIGNERS[0].pub, MESSAGE, SIGNERS[0].sign(MESSAGE))


@each_signer
@given(pub=st.binary(max_size=40), signature=st.binary(max_size=70))
def test_hostile_bytes_never_raise(signer: Signer, pub: bytes, signature: bytes) -> None:
    assert not verify(signer.alg, pub, MESSAGE, signature)
    assert not verify(signer.alg, signer.pub, MESSAGE, signature)


@each_signer
def test_secrets_do_not_show(signer: Signer) -> None:
    secret = b"a" * 32
    for text in (repr(signer), str(signer)):
        assert secret.hex() not in text
        assert "aaaa" not in text
    assert signer.address in repr(signer)
