"""A request is served when it is honest; whatever else comes, the verifier refuses and forgets."""

import dataclasses
import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.attacks import (
    ALGORITHMS,
    MODEL,
    NODE,
    OTHER_NODE,
    Scene,
    changed,
    flipped,
    signed_over,
)
from r3mes.actors.requests.canonical import pack
from r3mes.actors.requests.envelope import WIRE_CAP, RequestVerifier, SignedRequest, seal
from r3mes.actors.requests.header import BODY_CAP, HEADER_CAP, Header, decode_header
from r3mes.actors.requests.replay import ReplayGuard
from r3mes.errors import EnvelopeRefused, ModelNotFound, Refused
from r3mes.ids import ModelHash

each_alg = pytest.mark.parametrize("alg", ALGORITHMS)


@pytest.fixture
def scene() -> Scene:
    return Scene("ed25519")


def resealed(scene: Scene, **changes: Any) -> bytes:
    """A request of the victim whose header says something else, properly signed."""
    request = scene.request()
    return seal(scene.victim, request.header._replace(**changes), b"x" * 2048).wire


@each_alg
def test_honest_request_is_served(alg: str) -> None:
    scene = Scene(alg)
    request = scene.request(body=b"what is asked", idem=b"i" * 16)
    served = scene.verifier.verify(request.wire)
    assert served.body == b"what is asked"
    assert served.header == request.header
    assert served.hash == request.hash == hashlib.sha256(request.header.encode()).digest()
    assert served.header.sub == scene.victim.address
    assert served.header.idem == b"i" * 16


def test_same_job_may_be_asked_again_with_a_new_nonce(scene: Scene) -> None:
    first, second = (scene.request(idem=b"i" * 16) for _ in range(2))
    assert first.header.nonce != second.header.nonce
    served = [scene.verifier.verify(request.wire).header.idem for request in (first, second)]
    assert served == [b"i" * 16] * 2


def test_largest_body_passes_and_one_byte_more_does_not(scene: Scene) -> None:
    assert len(scene.verifier.verify(scene.request(body=bytes(BODY_CAP)).wire).body) == BODY_CAP
    with pytest.raises(EnvelopeRefused, match="well-formed"):
        scene.verifier.verify(scene.request(body=bytes(BODY_CAP + 1)).wire)
    with pytest.raises(EnvelopeRefused, match="the cap is"):
        scene.verifier.verify(bytes(WIRE_CAP + 1))


def test_model_that_is_not_served_is_named(scene: Scene) -> None:
    with pytest.raises(ModelNotFound, match="7070707070"):
        scene.verifier.verify(scene.request(model=ModelHash(b"p" * 32)).wire)


@pytest.mark.parametrize("skew_ms", [-120_000, -30_001, -30_000, 0, 30_000, 30_001, 600_000])
def test_clocks_may_differ_by_30_s(scene: Scene, skew_ms: int) -> None:
    """The customer's clock is ahead by ``skew_ms``; its request lasts one millisecond."""
    wire = scene.request(now_ms=scene.now_ms + skew_ms, ttl_ms=1).wire
    if -30_001 <= skew_ms <= 30_000:
        assert scene.verifier.verify(wire)
    else:
        with pytest.raises(EnvelopeRefused, match=r"by our clock|ahead of our clock") as refused:
            scene.verifier.verify(wire)
        assert "both clocks" in str(refused.value)


@pytest.mark.parametrize(("ttl_ms", "holds"), [(1, True), (120_000, True), (120_001, False)])
def test_request_lasts_two_minutes_at_most(scene: Scene, ttl_ms: int, holds: bool) -> None:
    wire = scene.request(ttl_ms=ttl_ms).wire
    if holds:
        assert scene.verifier.verify(wire)
    else:
        with pytest.raises(EnvelopeRefused, match="at most 120 s"):
            scene.verifier.verify(wire)


@pytest.mark.parametrize(
    "changes",
    [
        {"ver": 2},
        {"method": "train"},
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": (1 << 24) + 1},
        {"max_price": -1},
        {"max_price": 1 << 63},
        {"body_len": 2047},
        {"body_len": -1},
        {"body_sha256": bytes(32)},
        {"body_sha256": b""},
        {"epoch": b"1st-boot!"},
        {"nonce": b"short"},
        {"nonce": bytes(17)},
        {"idem": b""},
        {"model": ModelHash(b"m" * 31)},
        {"parent": b"x"},
        {"aud": b""},
        {"chain": ""},
        {"chain": "x" * 65},
        {"sub": "remes1"},
        {"alg": "secp256k1"},
        {"alg": "none"},
        {"pub": b"p" * 32},
        {"exp_ms": 1 << 64 - 1},
        {"iat_ms": -(1 << 63)},
        {"max_price": 1.5},
        {"max_tokens": None},
        {"chain": b"r3mes-dev-1"},
        {"nonce": "n" * 16},
        {"parent": ()},
        {"nonce": {}},
    ],
    ids=str,
)
def test_header_out_of_range_is_refused_though_signed(
    scene: Scene, changes: dict[str, Any]
) -> None:
    with pytest.raises(EnvelopeRefused):
        scene.verifier.verify(resealed(scene, **changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chain": "another"}, "chain"),
        ({"epoch": b"2nd-boot"}, "epoch"),
        ({"iat_ms": 1, "exp_ms": 2}, "clock"),
        ({"max_tokens": 0}, "terms"),
        ({"sub": "remes1" + "q" * 38}, "account"),
        ({"body_sha256": bytes(32)}, "body"),
        ({"parent": b"p" * 32}, "delegation"),
        ({"nonce": b"short"}, "malformed"),
    ],
)
def test_refusals_can_be_counted_by_reason(
    scene: Scene, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(EnvelopeRefused) as refused:
        scene.verifier.verify(resealed(scene, **changes))
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\x90",
        b"\xc0",
        pack(("x" * 64,) * 17),
        bytes(HEADER_CAP + 1),
        b"\x92" * 900,
        b"\xdd\x7f\xff\xff\xff",
        b"\xd6\xff\x00\x00\x00\x00",
    ],
)
def test_what_is_no_header_is_refused_though_signed(scene: Scene, header: bytes) -> None:
    with pytest.raises(EnvelopeRefused):
        scene.verifier.verify(signed_over(scene, header, b"x" * 2048))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, 2),
        (0, True),
        (1, "secp256k1"),
        (1, "none"),
        (2, b"p" * 32),
        (2, b""),
        (3, b""),
        (4, b"s"),
    ],
)
def test_outer_field_that_does_not_fit_is_refused(scene: Scene, field: int, value: object) -> None:
    with pytest.raises(EnvelopeRefused):
        scene.verifier.verify(changed(scene.request().wire, field, value))


@pytest.mark.parametrize("wire", [b"", b"\x96", b"\xc1", bytes(100), b"\x91" * 5000])
def test_what_is_no_request_is_refused(scene: Scene, wire: bytes) -> None:
    with pytest.raises(EnvelopeRefused):
        scene.verifier.verify(wire)


@pytest.mark.parametrize(
    ("field", "length"),
    [("epoch", 9), ("model", 31), ("body_sha256", 33), ("nonce", 15), ("idem", 17), ("parent", 1)],
)
def test_lengths_are_part_of_the_form(scene: Scene, field: str, length: int) -> None:
    changes: dict[str, Any] = {field: bytes(length)}
    header = scene.request().header._replace(**changes)
    with pytest.raises(EnvelopeRefused, match="wrong length"):
        decode_header(header.encode())


def test_request_in_a_longer_form_is_refused(scene: Scene) -> None:
    wire = scene.request().wire
    assert wire.startswith(b"\x96\x01")
    for twin in (b"\xdc\x00\x06" + wire[1:], b"\x96\xcc\x01" + wire[2:]):
        with pytest.raises(EnvelopeRefused, match="canonical"):
            scene.verifier.verify(twin)


def test_forged_requests_take_no_place_in_memory(scene: Scene) -> None:
    guard = ReplayGuard(lambda: scene.now_ms)
    verifier = RequestVerifier(
        chain="r3mes-dev-1",
        audience=NODE,
        epoch=b"1st-boot",
        models=lambda model: model == MODEL,
        now_ms=lambda: scene.now_ms,
        guard=guard,
    )
    for _ in range(100):
        with pytest.raises(EnvelopeRefused, match="signature"):
            verifier.verify(changed(scene.request().wire, 4, bytes(64)))
    assert len(guard) == 0
    verifier.verify(scene.request().wire)
    assert len(guard) == 1


@each_alg
def test_no_single_bit_can_be_changed(alg: str) -> None:
    scene = Scene(alg)
    wire = scene.request(body=b"short").wire
    scene.verifier = scene.boot()
    for bit in range(0, len(wire) * 8, 3):
        with pytest.raises(Refused):
            scene.verifier.verify(flipped(wire, bit))
    scene.verifier.verify(wire)  # it was only ever the bit


SCENE = Scene("ed25519")
GENUINE = SCENE.request(body=b"x" * 64).wire


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400))
def test_hostile_bytes_are_only_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        SCENE.verifier.verify(data)
    with pytest.raises(Refused):
        SCENE.verifier.verify(signed_over(SCENE, data, b""))


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(GENUINE)), cut=st.integers(0, 5), more=st.binary(max_size=5))
def test_spliced_bytes_are_only_refused(at: int, cut: int, more: bytes) -> None:
    data = GENUINE[:at] + more + GENUINE[at + cut :]
    if data != GENUINE:
        with pytest.raises(Refused):
            SCENE.verifier.verify(data)


def test_cheap_checks_come_before_the_signature(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_signature(*_: object) -> bool:
        pytest.fail("the signature was checked")

    monkeypatch.setattr("r3mes.actors.requests.envelope.verify", no_signature)
    stale = scene.request(now_ms=scene.now_ms - 600_000).wire
    elsewhere = scene.request(audience=OTHER_NODE).wire
    swapped = changed(scene.request().wire, 5, b"y" * 2048)
    for wire in (stale, elsewhere, swapped, scene.request(max_tokens=0).wire):
        with pytest.raises(EnvelopeRefused):
            scene.verifier.verify(wire)


def test_fields_come_in_the_order_of_the_wire() -> None:
    assert ",".join(Header._fields) == (
        "ver,chain,aud,epoch,alg,pub,sub,method,model,body_sha256,body_len,"
        "max_tokens,max_price,iat_ms,exp_ms,nonce,idem,parent"
    )
    assert [field.name for field in dataclasses.fields(SignedRequest)] == ["wire", "header", "hash"]
