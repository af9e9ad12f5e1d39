"""What an attacker may try against a signed request; the suite and the benchmark run this one list.

Each attack makes the bytes that must be refused, and names the reason for which they must be: a
request that is refused for another reason has not tested anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from r3mes.actors.requests.canonical import framed, pack, unpack
from r3mes.actors.requests.envelope import (
    DOMAIN,
    RequestVerifier,
    SignedRequest,
    seal,
    sign_request,
)
from r3mes.actors.requests.replay import ReplayGuard
from r3mes.chain.keys.addresses import address_of
from r3mes.chain.keys.signing import Ed25519Signer, Secp256k1Signer, Signer
from r3mes.errors import EnvelopeRefused, EnvelopeReplayed, Overloaded, R3mesError
from r3mes.ids import ModelHash
from r3mes.p2p.identity import peer_id_of

ALGORITHMS = ("ed25519", "secp256k1")
CHAIN = "r3mes-dev-1"
MODEL = ModelHash(b"m" * 32)
NODE = peer_id_of(Ed25519Signer(b"n" * 32).pub)
OTHER_NODE = peer_id_of(Ed25519Signer(b"o" * 32).pub)
PER_SIGNER = 100

# orders of the two groups: what is added to, or taken from, S to make its twin
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
SECP256K1_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141


class Scene:
    """A node that serves, a customer whom it serves, and a clock that the scene moves."""

    def __init__(self, alg: str) -> None:
        self.alg = alg
        self.now_ms = 1_764_000_000_000
        self.victim = self.signer(b"v" * 32)
        self.mallory = self.signer(b"m" * 32)
        self.verifier = self.boot()
        self.verifier.verify(self.request().wire)  # an honest one is served

    def signer(self, secret: bytes) -> Signer:
        return Ed25519Signer(secret) if self.alg == "ed25519" else Secp256k1Signer(secret)

    def boot(self, **changes: Any) -> RequestVerifier:
        """A verifier as a node makes it when it starts."""
        clock = lambda: self.now_ms  # noqa: E731
        known = {"chain": CHAIN, "audience": NODE, "epoch": b"1st-boot", **changes}
        guard = ReplayGuard(clock, per_signer=PER_SIGNER)
        return RequestVerifier(
            models=lambda model: model == MODEL, now_ms=clock, guard=guard, **known
        )

    def request(self, signer: Signer | None = None, **changes: Any) -> SignedRequest:
        """An honest request, but for ``changes``."""
        terms: dict[str, Any] = {
            "chain": CHAIN,
            "audience": NODE,
            "epoch": b"1st-boot",
            "model": MODEL,
            "body": b"x" * 2048,
            "max_tokens": 100,
            "max_price": 1_000,
            "now_ms": self.now_ms,
        }
        return sign_request(signer or self.victim, **(terms | changes))


@dataclass(frozen=True, slots=True)
class Attack:
    """How the bytes are made, and what the verifier must say to them."""

    name: str
    wire: Callable[[Scene], bytes]
    error: type[R3mesError]
    reason: str
    algs: tuple[str, ...] = ALGORITHMS

    def refusal(self, alg: str) -> R3mesError | None:
        """What the verifier raised; None if the attack got through."""
        scene = Scene(alg)
        wire = self.wire(scene)
        try:
            scene.verifier.verify(wire)
        except R3mesError as error:
            return error
        return None

    def refused(self, alg: str) -> bool:
        """Whether it was refused, and for the reason that was expected."""
        error = self.refusal(alg)
        return type(error) is self.error and self.reason in error.detail


def changed(wire: bytes, field: int, value: object) -> bytes:
    """The request with one of ``[1, alg, pub, header, signature, body]`` replaced."""
    fields = list(
        unpack(wire, (int, str, bytes, bytes, bytes, bytes), "request", max_bytes=1 << 20)
    )
    fields[field] = value
    return pack(tuple(fields))


def signed_over(scene: Scene, header: bytes, body: bytes) -> bytes:
    """A request whose signature holds over whatever ``header`` is."""
    signature = scene.victim.sign(framed(DOMAIN, header))
    return pack((1, scene.alg, scene.victim.pub, header, signature, body))


def replay(scene: Scene) -> bytes:
    wire = scene.request().wire
    scene.verifier.verify(wire)
    return wire


def replay_after_restart(scene: Scene) -> bytes:
    wire = replay(scene)
    scene.verifier = scene.boot(epoch=b"2nd-boot")
    return wire


def body_swapped(scene: Scene) -> bytes:
    return changed(scene.request().wire, 5, b"y" * 2048)


def relayed_to_another_node(scene: Scene) -> bytes:
    scene.verifier = scene.boot(audience=OTHER_NODE)
    return scene.request().wire


def used_on_another_chain(scene: Scene) -> bytes:
    scene.verifier = scene.boot(chain="r3mes-1")
    return scene.request().wire


def signature_empty(scene: Scene) -> bytes:
    return changed(scene.request().wire, 4, b"")


def signature_zero(scene: Scene) -> bytes:
    return changed(scene.request().wire, 4, bytes(64))


def foreign_account(scene: Scene) -> bytes:
    return scene.request(scene.mallory, sub=scene.victim.address).wire


def price_raised(scene: Scene) -> bytes:
    request = scene.request()
    return changed(request.wire, 3, request.header._replace(max_price=1_000_000).encode())


def expired(scene: Scene) -> bytes:
    wire = scene.request(ttl_ms=60_000).wire
    scene.now_ms += 60_000 + 30_001
    return wire


def from_the_future(scene: Scene) -> bytes:
    return scene.request(now_ms=scene.now_ms + 30_001).wire


def one_year_long(scene: Scene) -> bytes:
    return scene.request(ttl_ms=365 * 24 * 3600 * 1000).wire


def ends_before_it_begins(scene: Scene) -> bytes:
    return scene.request(ttl_ms=-1_000).wire


def integer_in_a_longer_form(scene: Scene) -> bytes:
    request = scene.request()
    one, the_same_one = b"\xdc\x00\x12\x01", b"\xdc\x00\x12\xcc\x01"
    header = request.header.encode().replace(one, the_same_one, 1)
    return signed_over(scene, header, b"x" * 2048)


def bytes_behind_the_end(scene: Scene) -> bytes:
    header = scene.request().header.encode() + b"\x00"
    return signed_over(scene, header, b"x" * 2048)


def bool_for_an_integer(scene: Scene) -> bytes:
    header = pack((True, *scene.request().header[1:]))
    return signed_over(scene, header, b"x" * 2048)


def domain_left_out(scene: Scene) -> bytes:
    request = scene.request()
    return changed(request.wire, 4, scene.victim.sign(request.header.encode()))


def twin_of_the_signature(scene: Scene) -> bytes:
    request = scene.request()
    signature = scene.victim.sign(framed(DOMAIN, request.header.encode()))
    if scene.alg == "ed25519":
        twin = int.from_bytes(signature[32:], "little") + ED25519_ORDER
        return changed(request.wire, 4, signature[:32] + twin.to_bytes(32, "little"))
    twin = SECP256K1_ORDER - int.from_bytes(signature[32:], "big")
    return changed(request.wire, 4, signature[:32] + twin.to_bytes(32, "big"))


def small_order_key(scene: Scene) -> bytes:
    """The neutral point as key: R = B, S = 1 satisfies S·B = R + h·A for every message."""
    neutral = b"\x01" + bytes(31)
    base = bytes.fromhex("58" + "66" * 31)
    request = scene.request()
    header = request.header._replace(pub=neutral, sub=address_of("ed25519", neutral))
    return changed(seal(scene.victim, header, b"x" * 2048).wire, 4, base + b"\x01" + bytes(31))


def nonces_flooded(scene: Scene) -> bytes:
    scene.verifier = scene.boot()
    for _ in range(PER_SIGNER):
        scene.verifier.verify(scene.request().wire)
    scene.verifier.verify(scene.request(scene.mallory).wire)  # others are still served
    return scene.request().wire


# fmt: off
ATTACKS = (
    Attack("replay", replay, EnvelopeReplayed, "used before"),
    Attack("replay after restart", replay_after_restart, EnvelopeRefused, "last started"),
    Attack("body swapped", body_swapped, EnvelopeRefused, "the body is not the one"),
    Attack("relayed to another node", relayed_to_another_node, EnvelopeRefused, "another node"),
    Attack("used on another chain", used_on_another_chain, EnvelopeRefused, "another chain"),
    Attack("signature empty", signature_empty, EnvelopeRefused, "signature does not hold"),
    Attack("signature zero", signature_zero, EnvelopeRefused, "signature does not hold"),
    Attack("foreign account", foreign_account, EnvelopeRefused, "does not belong to the account"),
    Attack("price raised", price_raised, EnvelopeRefused, "signature does not hold"),
    Attack("expired", expired, EnvelopeRefused, "expired"),
    Attack("from the future", from_the_future, EnvelopeRefused, "ahead of our clock"),
    Attack("one year long", one_year_long, EnvelopeRefused, "at most 120 s"),
    Attack("ends before it begins", ends_before_it_begins, EnvelopeRefused, "at most 120 s"),
    Attack("integer in a longer form", integer_in_a_longer_form, EnvelopeRefused, "canonical"),
    Attack("bytes behind the end", bytes_behind_the_end, EnvelopeRefused, "well-formed"),
    Attack("bool for an integer", bool_for_an_integer, EnvelopeRefused, "number or type"),
    Attack("domain left out", domain_left_out, EnvelopeRefused, "signature does not hold"),
    Attack("twin of the signature", twin_of_the_signature, EnvelopeRefused,
           "signature does not hold"),
    Attack("small-order key", small_order_key, EnvelopeRefused, "signature does not hold",
           algs=("ed25519",)),
    Attack("nonces flooded", nonces_flooded, Overloaded, "of this account"),
)
# fmt: on

CASES = tuple((attack, alg) for attack in ATTACKS for alg in attack.algs)
"""Every attack on every algorithm that it fits: 20 for ed25519, 19 for secp256k1."""


def flipped(wire: bytes, bit: int) -> bytes:
    """``wire`` with one bit turned over."""
    at, mask = bit // 8, 1 << bit % 8
    return wire[:at] + bytes([wire[at] ^ mask]) + wire[at + 1 :]
