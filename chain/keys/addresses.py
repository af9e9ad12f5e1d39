"""Account addresses: a hash of the public key, in bech32 with the chain's prefix.

Source: BIP-173 (bech32) and Cosmos ADR-028: RIPEMD-160 of SHA-256 for secp256k1, the first 20
bytes of SHA-256 for ed25519.  Multisig and validator addresses are left out: the node has none.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import bech32

from r3mes.errors import BadRequest, EnvelopeRefused
from r3mes.ids import Address

PREFIX = "remes"
PUB_LENGTH = {"ed25519": 32, "secp256k1": 33}


@lru_cache(maxsize=4096)  # encoding costs as much as a signature check; signers come again
def address_of(alg: str, pub: bytes) -> Address:
    """The account behind a public key.

    Raises:
        EnvelopeRefused: an unknown algorithm, or a key of the wrong length for it.
    """
    if PUB_LENGTH.get(alg) != len(pub):
        raise EnvelopeRefused("the key is of no kind that is known here")
    digest = hashlib.sha256(pub).digest()
    return encode_address(_ripemd160(digest) if alg == "secp256k1" else digest[:20])


def encode_address(raw: bytes) -> Address:
    """Write the 20 bytes of an account as ``remes1…``."""
    words = bech32.convertbits(raw, 8, 5) or ()  # None only for values over 8 bits
    return Address(bech32.bech32_encode(PREFIX, words))


def parse_address(text: str) -> Address:
    """Check prefix, checksum and length of an address that a person or a peer gave.

    Raises:
        BadRequest: says which of them is wrong.
    """
    if not text.isascii() or text != text.lower() or len(text) > 90:
        raise BadRequest("an address is one word of small letters and digits", param="address")
    prefix, words = bech32.bech32_decode(text)
    if prefix is None or words is None:
        raise BadRequest("the address has a typing error: its checksum does not fit")
    if prefix != PREFIX:
        raise BadRequest(f"the address is of another chain: {prefix}1… and not {PREFIX}1…")
    raw = bech32.convertbits(words, 5, 8, pad=False)
    if raw is None or len(raw) != 20:
        raise BadRequest("the address does not hold the 20 bytes of an account")
    return Address(text)


def _ripemd160(data: bytes) -> bytes:
    try:
        return hashlib.new("ripemd160", data).digest()
    except ValueError:  # OpenSSL 3 without its legacy provider, or FIPS mode
        from Crypto.Hash import RIPEMD160

        return RIPEMD160.new(data).digest()
