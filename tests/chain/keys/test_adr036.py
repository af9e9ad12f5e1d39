"""Texts signed off the chain are those of Keplr and cosmjs, byte for byte."""

import base64
from typing import Any

from r3mes.chain.keys.adr036 import sign_bytes, sign_text, verify_text
from r3mes.chain.keys.signing import Ed25519Signer, Secp256k1Signer


def test_documents_and_signatures_equal_the_vectors(vectors: dict[str, Any]) -> None:
    by_address = {key["address"]: key for key in vectors["keys"]}
    assert vectors["adr036"]
    for one in vectors["adr036"]:
        text, signer = one["data_utf8"], one["signer"]
        wallet = Secp256k1Signer(bytes.fromhex(by_address[signer]["privkey_hex"]))
        assert sign_bytes(wallet.address, text.encode()).decode() == one["sign_bytes_utf8"]
        signature = sign_text(wallet, text)
        assert base64.b64encode(signature).decode() == one["signature_b64"]
        assert verify_text("secp256k1", base64.b64decode(one["pubkey_b64"]), text, signature)


def test_another_text_or_key_does_not_verify() -> None:
    wallet, other = Secp256k1Signer(b"w" * 32), Secp256k1Signer(b"o" * 32)
    signature = sign_text(wallet, "hello")
    assert not verify_text(wallet.alg, wallet.pub, "hello!", signature)
    assert not verify_text(other.alg, other.pub, "hello", signature)
    assert not verify_text("ed25519", wallet.pub, "hello", signature)


def test_empty_text_is_never_signed() -> None:
    wallet = Secp256k1Signer(b"w" * 32)
    assert not verify_text(wallet.alg, wallet.pub, "", sign_text(wallet, ""))


def test_machines_sign_texts_too() -> None:
    machine = Ed25519Signer(b"m" * 32)
    assert verify_text(machine.alg, machine.pub, "hello", sign_text(machine, "hello"))
