"""The signed part of a request, field by field."""

from __future__ import annotations

from typing import NamedTuple

from r3mes.actors.requests.canonical import pack, unpack
from r3mes.errors import EnvelopeRefused
from r3mes.ids import Address, ModelHash

HEADER_CAP = 1024
BODY_CAP = 1024 * 1024 - 4096  # a frame takes 1 MiB; the rest is for header and delegation
MAX_TOKENS = 1 << 24
MAX_PRICE = (1 << 63) - 1
MAX_TTL_MS = 120_000
SKEW_MS = 30_000
METHOD = "infer"


class Header(NamedTuple):
    """What the signer asks for, of whom, and what it may cost.

    A tuple, because its order is the order on the wire, and because making one takes a tenth of
    the time of a frozen dataclass on the path that every request takes.

    Args:
        ver: 1.
        chain: chain id, so that a request on a test network means nothing on another.
        aud: multihash of the serving peer's id.
        epoch: 8 bytes that the serving node drew when it started; they are in its offer.
        alg: ``ed25519`` or ``secp256k1``.
        pub: the key that signs, 32 or 33 bytes.
        sub: the account that pays: that of the key, or the wallet that lent it (``parent``).
        method: ``infer``.
        model: content hash of the model's manifest, 32 bytes.
        body_sha256: SHA-256 of the body, 32 bytes.
        body_len: length of the body.
        max_tokens: cap of the answer.
        max_price: cap of the whole call, in uremes.
        iat_ms: when it was signed, unix milliseconds.
        exp_ms: when it ends, at most 120 s later.
        nonce: 16 random bytes against replay.
        idem: 16 bytes that name the job; the same on a retry.
        parent: SHA-256 of the delegation to a session key, or empty.
    """

    ver: int
    chain: str
    aud: bytes
    epoch: bytes
    alg: str
    pub: bytes
    sub: Address
    method: str
    model: ModelHash
    body_sha256: bytes
    body_len: int
    max_tokens: int
    max_price: int
    iat_ms: int
    exp_ms: int
    nonce: bytes
    idem: bytes
    parent: bytes

    def encode(self) -> bytes:
        """The bytes that are signed, without their domain."""
        return pack(self)


# fmt: off
_TYPES = (int, str, bytes, bytes, str, bytes, str, str, bytes, bytes,
          int, int, int, int, int, bytes, bytes, bytes)
# fmt: on


def decode_header(signed: bytes) -> Header:
    """Read a header: form and sizes only; what it says is for the verifier.

    Raises:
        EnvelopeRefused: not the canonical form of a header.
    """
    if len(signed) > HEADER_CAP:
        raise EnvelopeRefused(f"the header has {len(signed)} bytes, the cap is {HEADER_CAP}")
    header = Header._make(unpack(signed, _TYPES, "header"))
    if not (
        len(header.epoch) == 8
        and len(header.model) == len(header.body_sha256) == 32
        and len(header.nonce) == len(header.idem) == 16
        and len(header.parent) in (0, 32)
    ):
        raise EnvelopeRefused("a field of the header has a wrong length")
    return header
