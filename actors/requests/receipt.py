"""The signed end of an answer: what was served and what it costs; both sides keep it.

The server signs the result; the gateway signs result and signature together.  With both, neither
can deny what was asked or served.

Layout: result ``[1, request_hash, output_sha256, …]``, signature ``[alg, pub, signature]``, both
canonical msgpack; domains ``r3mes/res/v1`` and ``r3mes/rcp/v1``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from r3mes.actors.requests.canonical import framed, pack, unpack
from r3mes.chain.keys.addresses import address_of
from r3mes.chain.keys.signing import Signer, verify
from r3mes.errors import EnvelopeRefused
from r3mes.ids import Address, ModelHash, RequestHash

RESULT_DOMAIN = b"r3mes/res/v1"
RECEIPT_DOMAIN = b"r3mes/rcp/v1"
RESULT_CAP = 64 * 1024
COMMITMENTS_CAP = 60 * 1024
_RESULT = (int, bytes, bytes, int, int, int, bytes, bytes, str, str)
_SIGNATURE = (str, bytes, bytes)


@dataclass(frozen=True, slots=True)
class Result:
    """What the server says of its answer; the order is that on the wire.

    Args:
        request_hash: which request, 32 bytes.
        output_sha256: SHA-256 over the output's token ids as little-endian u32.
        prompt_tokens: tokens of the templated prompt.
        completion_tokens: tokens written.
        price: uremes for the whole call.
        model: content hash of the model's manifest, 32 bytes.
        commitments: evidence about the computation; empty in this version.
        status: how it ended: ``stop``, ``length``, ``cancelled``…
        server: account of the wallet that signs.
    """

    request_hash: RequestHash
    output_sha256: bytes
    prompt_tokens: int
    completion_tokens: int
    price: int
    model: ModelHash
    commitments: bytes
    status: str
    server: Address

    def encode(self) -> bytes:
        return pack((1, *(getattr(self, field.name) for field in fields(self))))

    @classmethod
    def decode(cls, data: bytes) -> Result:
        """Read a result.

        Raises:
            EnvelopeRefused: not canonical, or a value is out of range.
        """
        if len(data) > RESULT_CAP:
            raise EnvelopeRefused(f"the result has {len(data)} bytes, the cap is {RESULT_CAP}")
        version, *values = unpack(data, _RESULT, "result", max_bytes=COMMITMENTS_CAP)
        result = cls(*values)
        if version != 1:
            raise EnvelopeRefused(f"results of version {version} are not known here")
        if not len(result.request_hash) == len(result.output_sha256) == len(result.model) == 32:
            raise EnvelopeRefused("a hash in the result has a wrong length")
        counts = result.prompt_tokens, result.completion_tokens, result.price
        if min(counts) < 0 or max(counts) >= 1 << 63:
            raise EnvelopeRefused("a number in the result is out of range")
        return result


@dataclass(frozen=True, slots=True)
class SignedResult:
    """A result and its signature, as they go over the wire."""

    result: bytes
    signature: bytes


def sign_result(signer: Signer, result: Result) -> SignedResult:
    """The server's half of a receipt."""
    encoded = result.encode()
    return SignedResult(encoded, _sign(signer, framed(RESULT_DOMAIN, encoded)))


def verify_result(result: bytes, signature: bytes, *, wallet: Address) -> Result:
    """Check the server's half.

    Args:
        result: as it came.
        signature: as it came.
        wallet: the account behind the serving peer, as its binding showed.

    Raises:
        EnvelopeRefused: it does not hold, or another account signed it.
    """
    decoded = Result.decode(result)
    _, account = _check(framed(RESULT_DOMAIN, result), signature, "signature of the result")
    if account != wallet or decoded.server != wallet:
        raise EnvelopeRefused("the result is signed by another account than the server's")
    return decoded


def countersign(signer: Signer, result: bytes, signature: bytes) -> bytes:
    """The gateway's half of a receipt."""
    return _sign(signer, framed(RECEIPT_DOMAIN, result, signature))


def verify_countersignature(
    result: bytes, signature: bytes, countersignature: bytes, *, sub: Address, pub: bytes = b""
) -> None:
    """Check the gateway's half.

    Args:
        result: as the server sent it.
        signature: as the server sent it.
        countersignature: as it came.
        sub: the account that pays.
        pub: the key that signed the request, which counts too: a session key may countersign.

    Raises:
        EnvelopeRefused: it does not hold, or somebody else signed it.
    """
    message = framed(RECEIPT_DOMAIN, result, signature)
    key, account = _check(message, countersignature, "countersignature")
    if account != sub and key != pub:
        raise EnvelopeRefused("the receipt is countersigned by another account than the payer's")


def _sign(signer: Signer, message: bytes) -> bytes:
    return pack((signer.alg, signer.pub, signer.sign(message)))


def _check(message: bytes, blob: bytes, what: str) -> tuple[bytes, Address]:
    if len(blob) > 256:
        raise EnvelopeRefused(f"the {what} is too long")
    alg, pub, signature = unpack(blob, _SIGNATURE, what)
    if not verify(alg, pub, message, signature):
        raise EnvelopeRefused(f"the {what} does not hold")
    return pub, address_of(alg, pub)
