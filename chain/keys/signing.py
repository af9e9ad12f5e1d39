"""Signatures by both kinds of key, checked strictly.

Ed25519 is for machines, secp256k1 for accounts on the chain.  Both have known twins (a second
valid-looking signature for the same message) and degenerate keys; all of them are refused here,
so that no caller has to remember.

Source: RFC 8032 §5.1.7 with libsodium's checks (S < L, no small-order point); SEC 1 §4.1 with
low S as in BIP-62, ``r ‖ s`` of 64 bytes over SHA-256 of the message as Cosmos writes it.
"""

from __future__ import annotations

from typing import Protocol

from coincurve import PrivateKey, PublicKey
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from r3mes.chain.keys.addresses import address_of
from r3mes.ids import Address

ED25519 = "ed25519"
SECP256K1 = "secp256k1"


class Signer(Protocol):
    """Whoever holds a private key; the key itself stays inside."""

    @property
    def alg(self) -> str:
        """``ed25519`` or ``secp256k1``."""
        ...

    @property
    def pub(self) -> bytes:
        """Public key: 32 bytes, or 33 compressed."""
        ...

    @property
    def address(self) -> Address:
        """Account behind the key."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Signature of 64 bytes."""
        ...


class Ed25519Signer:
    """A machine's key, made from a seed of 32 bytes."""

    alg = ED25519

    def __init__(self, seed: bytes) -> None:
        self.pub, self._secret = crypto_sign_seed_keypair(seed)
        self.address = address_of(self.alg, self.pub)

    def sign(self, message: bytes) -> bytes:
        return crypto_sign(message, self._secret)[:64]

    def __repr__(self) -> str:
        return f"Ed25519Signer({self.address})"


class Secp256k1Signer:
    """An account's key, made from a secret of 32 bytes."""

    alg = SECP256K1

    def __init__(self, secret: bytes) -> None:
        self._key = PrivateKey(secret)
        self.pub = self._key.public_key.format()
        self.address = address_of(self.alg, self.pub)

    def sign(self, message: bytes) -> bytes:
        return self._key.sign_recoverable(message)[:64]  # r ‖ s, S is low; the rest recovers keys

    def __repr__(self) -> str:
        return f"Secp256k1Signer({self.address})"


def verify(alg: str, pub: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is the one that ``pub`` made of ``message``; never raises on bytes."""
    if len(signature) != 64:
        return False
    if alg == ED25519:
        return len(pub) == 32 and _verify_ed25519(pub, message, signature)
    return alg == SECP256K1 and len(pub) == 33 and _verify_secp256k1(pub, message, signature)


def _verify_ed25519(pub: bytes, message: bytes, signature: bytes) -> bool:
    try:
        crypto_sign_open(signature + message, pub)
    except BadSignatureError:
        return False
    return True


def _verify_secp256k1(pub: bytes, message: bytes, signature: bytes) -> bool:
    r, s = _der_integer(signature[:32]), _der_integer(signature[32:])
    try:
        # libsecp256k1 itself refuses a high S, and r or s out of range
        return PublicKey(pub).verify(b"\x30" + bytes([len(r) + len(s)]) + r + s, message)
    except ValueError:  # not a point of the curve
        return False


def _der_integer(big_endian: bytes) -> bytes:
    digits = big_endian.lstrip(b"\x00")
    if not digits or digits[0] & 0x80:
        digits = b"\x00" + digits  # zero needs a digit; a set top bit would read as a minus
    return b"\x02" + bytes([len(digits)]) + digits
