"""The bytes of version 1 stay what they are: a change of one is another version of the protocol."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from r3mes.actors.requests.binding import bind, verify_binding
from r3mes.actors.requests.delegation import Delegation, decode_delegation, delegate
from r3mes.actors.requests.envelope import RequestVerifier, seal
from r3mes.actors.requests.header import Header
from r3mes.actors.requests.job import InferJob
from r3mes.actors.requests.multihash import multihash_of
from r3mes.actors.requests.receipt import (
    Result,
    countersign,
    sign_result,
    verify_countersignature,
    verify_result,
)
from r3mes.actors.requests.replay import ReplayGuard
from r3mes.chain.keys.signing import Ed25519Signer, Secp256k1Signer, Signer
from r3mes.ids import ModelHash, PeerId, RequestHash
from r3mes.p2p.identity import peer_id_of

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "requests.json").read_text())
NOW = 1_764_000_000_000
MODEL = ModelHash(b"m" * 32)
NODE = Ed25519Signer(b"n" * 32)
PEER = PeerId(VECTORS["node"]["peer_id"])
BODY = bytes.fromhex(VECTORS["job"]["encoded_hex"])

each = pytest.mark.parametrize("vector", VECTORS["signed"], ids=lambda vector: vector["alg"])


def wallet_of(vector: dict[str, Any]) -> Signer:
    secret = vector["secret"].encode() * 32
    return Ed25519Signer(secret) if vector["alg"] == "ed25519" else Secp256k1Signer(secret)


def test_node() -> None:
    assert NODE.pub.hex() == VECTORS["node"]["pub_hex"]
    assert peer_id_of(NODE.pub) == PEER
    assert multihash_of(PEER).hex() == VECTORS["node"]["multihash_hex"]


def test_job() -> None:
    told = VECTORS["job"]
    job = InferJob(
        messages=told["messages"].encode(),
        emitted=tuple(told["emitted"]),
        temperature=told["temperature"],
        top_p=told["top_p"],
        top_k=told["top_k"],
        seed=told["seed"],
        stop=tuple(told["stop"]),
    )
    assert job.encode() == BODY
    assert InferJob.decode(BODY) == job


def test_later_job() -> None:
    told = VECTORS["later_job"]
    body = bytes.fromhex(told.pop("encoded_hex"))
    told["messages"], told["tools"] = told["messages"].encode(), told["tools"].encode()
    told["logit_bias"] = tuple(map(tuple, told["logit_bias"]))
    job = InferJob(**told)
    assert job.encode() == body
    assert InferJob.decode(body) == job


@each
def test_account(vector: dict[str, Any]) -> None:
    wallet = wallet_of(vector)
    assert (wallet.pub.hex(), wallet.address) == (vector["pub_hex"], vector["address"])


@each
def test_request(vector: dict[str, Any]) -> None:
    wallet = wallet_of(vector)
    header = Header(
        ver=1,
        chain="r3mes-dev-1",
        aud=multihash_of(PEER),
        epoch=b"1st-boot",
        alg=wallet.alg,
        pub=wallet.pub,
        sub=wallet.address,
        method="infer",
        model=MODEL,
        body_sha256=hashlib.sha256(BODY).digest(),
        body_len=len(BODY),
        max_tokens=256,
        max_price=1_000,
        iat_ms=NOW,
        exp_ms=NOW + 60_000,
        nonce=bytes(range(16)),
        idem=bytes(range(16, 32)),
        parent=b"",
    )
    request = seal(wallet, header, BODY)
    assert header.encode().hex() == vector["header_hex"]
    assert request.wire.hex() == vector["wire_hex"]
    verifier = RequestVerifier(
        chain="r3mes-dev-1",
        audience=PEER,
        epoch=b"1st-boot",
        models=lambda model: model == MODEL,
        now_ms=lambda: NOW,
        guard=ReplayGuard(lambda: NOW),
    )
    served = verifier.verify(bytes.fromhex(vector["wire_hex"]))
    assert (served.header, served.body) == (header, BODY)
    assert served.hash.hex() == request.hash.hex() == vector["request_hash_hex"]


@each
def test_receipt(vector: dict[str, Any]) -> None:
    wallet = wallet_of(vector)
    result = Result(
        request_hash=RequestHash(bytes.fromhex(vector["request_hash_hex"])),
        output_sha256=b"o" * 32,
        prompt_tokens=12,
        completion_tokens=34,
        price=56,
        model=MODEL,
        commitments=b"",
        status="stop",
        server=wallet.address,
    )
    signed = sign_result(wallet, result)
    assert signed.result.hex() == vector["result_hex"]
    assert signed.signature.hex() == vector["signature_hex"]
    assert verify_result(signed.result, signed.signature, wallet=wallet.address) == result
    counter = countersign(wallet, signed.result, signed.signature)
    assert counter.hex() == vector["countersignature_hex"]
    verify_countersignature(signed.result, signed.signature, counter, sub=wallet.address)


@each
def test_binding(vector: dict[str, Any]) -> None:
    wallet = wallet_of(vector)
    assert bind(wallet, NODE).hex() == vector["binding_hex"]
    assert verify_binding(bytes.fromhex(vector["binding_hex"]), peer=PEER) == wallet.address


@each
def test_delegation(vector: dict[str, Any]) -> None:
    wallet, now = wallet_of(vector), NOW // 1_000
    session = Ed25519Signer(b"s" * 32).pub
    lent = Delegation("r3mes-dev-1", wallet.address, session, (PEER,), 10**6, now, now + 86_400)
    assert lent.text() == vector["delegation_text"]
    assert delegate(wallet, lent).hex() == vector["delegation_hex"]
    assert decode_delegation(bytes.fromhex(vector["delegation_hex"])) == lent
