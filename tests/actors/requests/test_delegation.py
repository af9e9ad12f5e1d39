"""A session key spends from a wallet within what the wallet's text allows, and no further."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.attacks import CHAIN, NODE, OTHER_NODE, PER_SIGNER, Scene, changed, flipped
from r3mes.actors.requests import sessions
from r3mes.actors.requests.canonical import pack
from r3mes.actors.requests.delegation import (
    DELEGATION_CAP,
    Delegation,
    decode_delegation,
    delegate,
)
from r3mes.actors.requests.envelope import VerifiedRequest, seal
from r3mes.actors.requests.header import Header
from r3mes.actors.requests.sessions import MAX_OPEN, Sessions
from r3mes.chain.keys.adr036 import sign_text
from r3mes.chain.keys.signing import Ed25519Signer, Secp256k1Signer, Signer
from r3mes.errors import EnvelopeRefused, EnvelopeReplayed, Overloaded
from r3mes.p2p.identity import peer_id_of

WALLET = Secp256k1Signer(b"w" * 32)
SESSION = Ed25519Signer(b"s" * 32)
NOW = 1_764_000_000
LENT = Delegation(CHAIN, WALLET.address, SESSION.pub, (), 10_000, NOW, NOW + 3_600)


class Session:
    """A customer with a session key, before the node of a `Scene`."""

    def __init__(self, wallet: Signer = WALLET, **changes: Any) -> None:
        self.scene = Scene("ed25519")
        self.lent = replace(LENT, account=wallet.address, **changes)
        self.delegation = delegate(wallet, self.lent)

    def ask(self, signer: Signer = SESSION, **changes: Any) -> VerifiedRequest:
        terms = {
            "sub": self.lent.account,
            "parent": hashlib.sha256(self.delegation).digest(),
        } | changes
        return self.scene.verifier.verify(self.scene.request(signer, **terms).wire, self.delegation)


@pytest.mark.parametrize("wallet", [WALLET, Ed25519Signer(b"w" * 32)], ids=lambda one: one.alg)
def test_session_key_is_served_for_the_account_of_the_wallet(wallet: Signer) -> None:
    served = Session(wallet).ask()
    assert served.header.sub == wallet.address
    assert served.header.pub == SESSION.pub


def test_person_can_read_what_is_signed() -> None:
    text = replace(LENT, nodes=(NODE, OTHER_NODE)).text()
    for told in (CHAIN, WALLET.address, NODE, "limit: 10000 uremes", "2025-11-24T16:00:00Z"):
        assert told in text
    assert "nodes: *\n" in LENT.text()
    assert decode_delegation(delegate(WALLET, LENT)) == LENT


def test_largest_delegation_fits_its_cap() -> None:
    nodes = tuple(peer_id_of(bytes([at]) * 32) for at in range(8))
    data = delegate(WALLET, replace(LENT, nodes=nodes, chain="c" * 50, limit=(1 << 63) - 1))
    assert len(data) <= DELEGATION_CAP
    assert decode_delegation(data).nodes == nodes


def test_session_serves_only_the_nodes_it_names() -> None:
    assert Session(nodes=(OTHER_NODE, NODE)).ask()
    with pytest.raises(EnvelopeRefused, match="other nodes or another chain"):
        Session(nodes=(OTHER_NODE,)).ask()


def test_session_of_another_chain_is_refused() -> None:
    with pytest.raises(EnvelopeRefused, match="another chain"):
        Session(chain="r3mes-1").ask()


def test_another_key_cannot_use_the_session() -> None:
    with pytest.raises(EnvelopeRefused, match="another account or session key"):
        Session().ask(Ed25519Signer(b"m" * 32))


def test_key_beside_the_header_must_be_the_session_key() -> None:
    """Mallory signs, and the header names the session key of somebody else."""
    session, mallory = Session(), Ed25519Signer(b"m" * 32)
    parent = hashlib.sha256(session.delegation).digest()
    header = session.scene.request(SESSION, sub=WALLET.address, parent=parent).header
    forged = changed(seal(mallory, header, b"x" * 2048).wire, 2, mallory.pub)
    with pytest.raises(EnvelopeRefused, match="the key beside the header"):
        session.scene.verifier.verify(forged, session.delegation)


def test_sessions_of_one_account_share_its_memory_of_nonces() -> None:
    first = Session(limit=1_000_000)
    for _ in range(PER_SIGNER):
        first.ask()
    other = Ed25519Signer(b"t" * 32)
    first.delegation = delegate(WALLET, replace(first.lent, session=other.pub))
    with pytest.raises(Overloaded, match="this account"):
        first.ask(other)


def test_session_cannot_spend_from_another_account() -> None:
    with pytest.raises(EnvelopeRefused, match="another account or session key"):
        Session().ask(sub=Secp256k1Signer(b"v" * 32).address)


def test_session_key_without_its_delegation_is_nobody() -> None:
    with pytest.raises(EnvelopeRefused, match="does not belong to the account"):
        Session().ask(parent=b"")
    with pytest.raises(EnvelopeRefused, match="did not come with it"):
        Session().ask(parent=bytes(32))
    session = Session()
    request = session.scene.request(
        SESSION, sub=WALLET.address, parent=hashlib.sha256(session.delegation).digest()
    )
    with pytest.raises(EnvelopeRefused, match="did not come with it"):
        session.scene.verifier.verify(request.wire)


def test_wallet_of_a_delegation_must_have_signed_it() -> None:
    mallory = Secp256k1Signer(b"m" * 32)
    text = LENT.text()
    for pub, signature, reason in (
        (mallory.pub, sign_text(mallory, text), "signed by another account"),
        (WALLET.pub, sign_text(mallory, text), "does not hold"),
        (WALLET.pub, WALLET.sign(text.encode()), "does not hold"),  # not as ADR-036
    ):
        with pytest.raises(EnvelopeRefused, match=reason):
            decode_delegation(pack((1, "secp256k1", pub, text, signature)))


@pytest.mark.parametrize(
    ("after_s", "holds"), [(-31, False), (-30, True), (0, True), (3_600, True), (3_601, False)]
)
def test_session_ends_when_its_text_says(after_s: int, holds: bool) -> None:
    session = Session()
    session.ask()  # also when it is known already
    session.scene.now_ms += after_s * 1_000
    if holds:
        assert session.ask()
    else:
        with pytest.raises(EnvelopeRefused, match="expired"):
            session.ask()


@pytest.mark.parametrize(
    "changes",
    [
        {"expires": NOW + 24 * 3_600 + 1},
        {"expires": NOW},
        {"expires": NOW - 1},
        {"limit": 0},
        {"limit": 1 << 63},
        {"limit": -1},
        {"chain": ""},
        {"chain": "a chain"},
        {"chain": "x\nlimit: 1"},
        {"session": bytes(31)},
        {"nodes": ("nobody",)},
        {"nodes": (NODE,) * 9},
        {"account": "remes1\nlimit: 1"},
    ],
    ids=str,
)
def test_terms_that_no_verifier_takes_are_not_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeRefused):
        delegate(WALLET, replace(LENT, **changes))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("limit: 10000", "limit: 010000"),
        ("limit: 10000", "limit: 1_0000"),
        ("limit: 10000", "limit: \u0661\u0660\u0660\u0660\u0660"),
        ("11-24", "13-24"),
        ("Z\nexpires", "+00:00\nexpires"),
        ("\n", "\r\n"),
        ("R3MES-SESSION-V1", "R3MES-SESSION-V2"),
        ("uremes", "uremes "),
    ],
)
def test_text_in_another_form_is_refused_though_signed(old: str, new: str) -> None:
    assert old in LENT.text()
    text = LENT.text().replace(old, new)
    with pytest.raises(EnvelopeRefused):
        decode_delegation(pack((1, WALLET.alg, WALLET.pub, text, sign_text(WALLET, text))))


def test_spending_stops_at_the_limit() -> None:
    session = Session(limit=2_500)
    session.ask(max_price=1_000)
    session.ask(max_price=1_500)
    with pytest.raises(EnvelopeRefused, match="spend limit of 2500") as refused:
        session.ask(max_price=1)
    assert "new delegation" in str(refused.value)


def test_what_was_not_spent_comes_back() -> None:
    session = Session(limit=1_000)
    served = session.ask(max_price=1_000)
    session.scene.verifier.settle(served.header, 400)
    session.ask(max_price=600)
    with pytest.raises(EnvelopeRefused, match="spend limit"):
        session.ask(max_price=1)


def test_request_is_settled_once() -> None:
    session = Session(limit=1_000)
    served = session.ask(max_price=1_000)
    for price in (1_000, 0, 0):
        session.scene.verifier.settle(served.header, price)
    with pytest.raises(EnvelopeRefused, match="spend limit"):
        session.ask(max_price=1)


def test_price_above_the_allowed_one_is_not_counted_twice() -> None:
    session = Session(limit=1_000)
    session.scene.verifier.settle(session.ask(max_price=600).header, 5_000)
    session.ask(max_price=400)


def test_request_left_open_too_long_stays_spent() -> None:
    session = Session(limit=MAX_OPEN + 1)
    first = session.ask(max_price=1)
    for _ in range(MAX_OPEN):
        session.ask(max_price=1)
    session.scene.verifier.settle(first.header, 0)
    with pytest.raises(EnvelopeRefused, match="spend limit"):
        session.ask(max_price=1)


def test_replay_spends_nothing() -> None:
    session = Session(limit=1_000)
    request = session.scene.request(
        SESSION,
        max_price=400,
        sub=WALLET.address,
        parent=hashlib.sha256(session.delegation).digest(),
    )
    session.scene.verifier.verify(request.wire, session.delegation)
    for _ in range(5):
        with pytest.raises(EnvelopeReplayed):
            session.scene.verifier.verify(request.wire, session.delegation)
    session.ask(max_price=600)


def test_revoked_session_ends_at_once() -> None:
    session = Session()
    revoked: set[bytes] = set()
    session.scene.verifier = session.scene.boot(revoked=revoked.__contains__)
    session.ask()
    revoked.add(hashlib.sha256(session.delegation).digest())
    with pytest.raises(EnvelopeRefused, match="revoked"):
        session.ask()


def test_wallet_signature_is_checked_once_for_many_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded = []

    def count(data: bytes) -> Delegation:
        decoded.append(data)
        return decode_delegation(data)

    monkeypatch.setattr(sessions, "decode_delegation", count)
    session = Session()
    for _ in range(5):
        session.ask(max_price=1)
    assert len(decoded) == 1


def lend(seed: int, *, expires: int = NOW + 60) -> tuple[Header, bytes]:
    wallet = Ed25519Signer(seed.to_bytes(32, "big"))
    data = delegate(wallet, replace(LENT, account=wallet.address, expires=expires))
    parent = hashlib.sha256(data).digest()
    request = Scene("ed25519").request(SESSION, sub=wallet.address, parent=parent, max_price=6_000)
    return request.header, data


def test_memory_of_sessions_is_bounded_and_never_forgets_spending() -> None:
    known = Sessions(
        chain=CHAIN, audience=NODE, revoked=lambda _: False, verified_cap=2, spending_cap=3
    )
    lent = [lend(seed) for seed in range(1, 5)]
    for header, data in lent[:3]:
        known.reserve(header, known.check(header, data, NOW * 1_000))
    header, data = lent[0]  # dropped from the verified, but its spending counts
    with pytest.raises(EnvelopeRefused, match="spend limit"):
        known.check(header, data, NOW * 1_000)
    header, data = lent[3]
    with pytest.raises(Overloaded):
        known.check(header, data, NOW * 1_000)
    header, data = lend(4, expires=NOW + 600)
    known.reserve(header, known.check(header, data, (NOW + 61) * 1_000))  # the expired make room


def test_full_memory_of_sessions_takes_no_nonce() -> None:
    session = Session()
    verifier = session.scene.verifier
    parent = hashlib.sha256(session.delegation).digest()
    request = session.scene.request(SESSION, sub=WALLET.address, parent=parent)
    verifier._sessions._spending_cap = 0
    with pytest.raises(Overloaded):
        verifier.verify(request.wire, session.delegation)
    verifier._sessions._spending_cap = 1
    verifier.verify(request.wire, session.delegation)  # and is not taken for a replay


GENUINE = delegate(WALLET, LENT)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(GENUINE)), cut=st.integers(0, 5), more=st.binary(max_size=8))
def test_hostile_bytes_are_only_refused(at: int, cut: int, more: bytes) -> None:
    data = GENUINE[:at] + more + GENUINE[at + cut :]
    if data != GENUINE:
        with pytest.raises(EnvelopeRefused):
            decode_delegation(data)
    with pytest.raises(EnvelopeRefused):
        decode_delegation(more * 300)


def test_no_single_bit_can_be_changed() -> None:
    for bit in range(0, len(GENUINE) * 8, 5):
        with pytest.raises(EnvelopeRefused):
            decode_delegation(flipped(GENUINE, bit))
