"""An account stands behind a peer only if both keys say so."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.attacks import flipped
from r3mes.actors.requests.binding import DOMAIN, bind, verify_binding
from r3mes.actors.requests.canonical import framed, pack, unpack
from r3mes.actors.requests.multihash import ed25519_key_of, multihash_of
from r3mes.chain.keys.signing import Ed25519Signer, Secp256k1Signer, Signer
from r3mes.errors import EnvelopeRefused
from r3mes.ids import PeerId
from r3mes.p2p.identity import NodeKey, peer_id_of

WALLET = Secp256k1Signer(b"w" * 32)
NODE = Ed25519Signer(b"n" * 32)
PEER = peer_id_of(NODE.pub)
BINDING = bind(WALLET, NODE)


@pytest.mark.parametrize("wallet", [WALLET, Ed25519Signer(b"w" * 32)], ids=lambda one: one.alg)
def test_account_behind_a_peer(wallet: Signer) -> None:
    assert verify_binding(bind(wallet, NODE), peer=PEER) == wallet.address


def test_binding_shown_by_another_peer_is_refused() -> None:
    other = peer_id_of(Ed25519Signer(b"o" * 32).pub)
    with pytest.raises(EnvelopeRefused, match="the node's signature"):
        verify_binding(BINDING, peer=other)


def test_account_cannot_be_claimed_without_its_wallet() -> None:
    """A node writes a binding with a foreign account; it can sign its own half only."""
    mallory = Secp256k1Signer(b"m" * 32)
    fields = unpack(BINDING, (int, str, bytes, bytes, bytes), "binding")
    by_mallory = unpack(bind(mallory, NODE), (int, str, bytes, bytes, bytes), "binding")
    with pytest.raises(EnvelopeRefused, match="the wallet's signature"):
        verify_binding(pack((*fields[:3], by_mallory[3], fields[4])), peer=PEER)


def test_node_cannot_be_claimed_without_its_key() -> None:
    """A wallet writes a binding with a foreign peer; it can sign its own half only."""
    fields = unpack(BINDING, (int, str, bytes, bytes, bytes), "binding")
    text = f"account: {WALLET.address}\nnode: {PEER}".encode()
    for forged in (bytes(64), WALLET.sign(text), NODE.sign(text), NODE.sign(framed(DOMAIN, b""))):
        with pytest.raises(EnvelopeRefused, match="the node's signature"):
            verify_binding(pack((*fields[:4], forged)), peer=PEER)


@pytest.mark.parametrize(("alg", "pub"), [("none", WALLET.pub), ("ed25519", WALLET.pub)])
def test_key_of_another_kind_is_refused(alg: str, pub: bytes) -> None:
    fields = unpack(BINDING, (int, str, bytes, bytes, bytes), "binding")
    with pytest.raises(EnvelopeRefused, match="no kind"):
        verify_binding(pack((1, alg, pub, *fields[3:])), peer=PEER)


def test_binding_of_another_version_is_refused() -> None:
    fields = unpack(BINDING, (int, str, bytes, bytes, bytes), "binding")
    with pytest.raises(EnvelopeRefused, match="version 2"):
        verify_binding(pack((2, *fields[1:])), peer=PEER)


def test_no_single_bit_can_be_changed() -> None:
    for bit in range(len(BINDING) * 8):
        with pytest.raises(EnvelopeRefused):
            verify_binding(flipped(BINDING, bit), peer=PEER)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=600))
def test_hostile_bytes_are_only_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeRefused):
        verify_binding(data, peer=PEER)


@given(pub=st.binary(min_size=32, max_size=32))
def test_peer_id_and_key_are_two_forms_of_one_thing(pub: bytes) -> None:
    peer = peer_id_of(pub)
    assert peer.startswith("12D3KooW")
    assert ed25519_key_of(peer) == pub
    assert multihash_of(peer).hex() == "002408011220" + pub.hex()


def test_node_key_of_p2p_can_be_bound() -> None:
    key = NodeKey(b"n" * 32)
    assert verify_binding(bind(WALLET, key), peer=key.peer_id) == WALLET.address


@pytest.mark.parametrize(
    "peer",
    [
        "",
        "1",
        PEER[:-1],
        PEER + "1",
        "1" + PEER,
        PEER + " ",
        PEER.replace("K", "0"),
        "Qm" + "a" * 44,
        "é" * 52,
    ],
)
def test_what_is_no_peer_id_of_ours_is_refused(peer: str) -> None:
    with pytest.raises(EnvelopeRefused, match="not the peer id"):
        multihash_of(PeerId(peer))
