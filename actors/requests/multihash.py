"""Peer ids as bytes: an ed25519 peer id *is* its public key, in a multihash.

Source: libp2p peer-id spec: base58btc of an identity multihash over the protobuf of the key.
RSA, secp256k1 and ECDSA peer ids (which hide the key behind a hash) are left out: our nodes have
ed25519 keys.
"""

from __future__ import annotations

from functools import lru_cache

from r3mes.errors import EnvelopeRefused
from r3mes.ids import PeerId

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {letter: value for value, letter in enumerate(_ALPHABET)}
# identity hash, 36 bytes; protobuf field 1 = key type 1 (ed25519), field 2 = 32 bytes
_HEAD = bytes.fromhex("002408011220")


def peer_id_of(pub: bytes) -> PeerId:
    """The peer id of an ed25519 key of 32 bytes."""
    number, text = int.from_bytes(_HEAD + pub, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = _ALPHABET[digit] + text
    return PeerId("1" + text)  # the leading zero byte


@lru_cache(maxsize=1024)
def multihash_of(peer: PeerId) -> bytes:
    """The 38 bytes that a base58 peer id stands for.

    Raises:
        EnvelopeRefused: it is not the peer id of an ed25519 key.
    """
    number = 0
    for letter in peer[:64]:
        number = number * 58 + _DIGITS.get(letter, 0)
    raw = number.to_bytes(64, "big")[-38:]
    if peer_id_of(raw[6:]) != peer:  # also catches letters outside the alphabet
        raise EnvelopeRefused(f"{peer[:64]!r} is not the peer id of an ed25519 key")
    return raw


def ed25519_key_of(peer: PeerId) -> bytes:
    """The public key (32 bytes) in a peer id.

    Raises:
        EnvelopeRefused: it is not the peer id of an ed25519 key.
    """
    return multihash_of(peer)[6:]
