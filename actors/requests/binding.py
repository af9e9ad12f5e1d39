"""Wallet and node key sign each other: which account earns behind a peer id.

One text, signed by both.  Without the node's signature anybody could claim another's node; without
the wallet's, another's account.  It names no time: it holds as long as both keys are used together.

Source: ADR-036 for the wallet's signature, so that any Cosmos wallet can make it; the node signs
``"r3mes/bind/v1" 0x00 u32be(length) text``.
"""

from __future__ import annotations

from typing import Protocol

from r3mes.actors.requests.canonical import framed, pack, unpack
from r3mes.actors.requests.multihash import ed25519_key_of
from r3mes.chain.keys.addresses import address_of
from r3mes.chain.keys.adr036 import sign_text, verify_text
from r3mes.chain.keys.signing import ED25519, Signer, verify
from r3mes.errors import EnvelopeRefused
from r3mes.ids import Address, PeerId
from r3mes.p2p.identity import peer_id_of

DOMAIN = b"r3mes/bind/v1"
BINDING_CAP = 512
_FIELDS = (int, str, bytes, bytes, bytes)


class NodeKey(Protocol):
    """The node's ed25519 key, as `r3mes.p2p.identity` holds it."""

    @property
    def pub(self) -> bytes: ...
    def sign(self, message: bytes) -> bytes: ...


def bind(wallet: Signer, node: NodeKey) -> bytes:
    """Let both keys sign that they belong together; the bytes go into the node's hello."""
    text = _text(wallet.address, peer_id_of(node.pub))
    by_node = node.sign(framed(DOMAIN, text.encode()))
    return pack((1, wallet.alg, wallet.pub, sign_text(wallet, text), by_node))


def verify_binding(binding: bytes, *, peer: PeerId) -> Address:
    """The account behind ``peer``, which the connection has proved.

    Raises:
        EnvelopeRefused: one of the two signatures does not hold.
    """
    if len(binding) > BINDING_CAP:
        raise EnvelopeRefused(f"the binding has {len(binding)} bytes, the cap is {BINDING_CAP}")
    version, alg, pub, by_wallet, by_node = unpack(binding, _FIELDS, "binding")
    if version != 1:
        raise EnvelopeRefused(f"bindings of version {version} are not known here")
    account = address_of(alg, pub)
    text = _text(account, peer)
    if not verify(ED25519, ed25519_key_of(peer), framed(DOMAIN, text.encode()), by_node):
        raise EnvelopeRefused("the node's signature of the binding does not hold")
    if not verify_text(alg, pub, text, by_wallet):
        raise EnvelopeRefused("the wallet's signature of the binding does not hold")
    return account


def _text(account: Address, peer: PeerId) -> str:
    return (
        "R3MES-BIND-V1\nThis account and this node belong together.\n"
        f"account: {account}\nnode: {peer}"
    )
