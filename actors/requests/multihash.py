"""Peer ids as the bytes that are signed, and the key inside them."""

from __future__ import annotations

from functools import lru_cache

from r3mes.errors import EnvelopeRefused
from r3mes.ids import PeerId
from r3mes.p2p.identity import peer_id_of, pub_of

_HEAD = bytes.fromhex("002408011220")  # identity multihash of a protobuf: ed25519, 32 bytes


@lru_cache(maxsize=1024)
def ed25519_key_of(peer: PeerId) -> bytes:
    """The public key (32 bytes) in a peer id.

    Raises:
        EnvelopeRefused: it is not the peer id of an ed25519 key, in its one form.
    """
    try:
        pub = pub_of(peer)
    except ValueError:
        pub = b""
    if peer_id_of(pub) != peer:  # decoding alone overlooks spaces at the end
        raise EnvelopeRefused(f"{peer[:64]!r} is not the peer id of an ed25519 key")
    return pub


def multihash_of(peer: PeerId) -> bytes:
    """The 38 bytes that a base58 peer id stands for.

    Raises:
        EnvelopeRefused: it is not the peer id of an ed25519 key.
    """
    return _HEAD + ed25519_key_of(peer)
