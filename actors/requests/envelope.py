"""Signed requests: made by the gateway, checked by the node that serves.

Transport and layout: ``wire = [1, alg, pub, header, signature, body]`` in canonical msgpack, the
signature over ``"r3mes/req/v1" 0x00 u32be(length) header``; the header holds the body's hash.

The checks go from cheap to expensive: form, whom it is for, times and terms, the body's hash, the
signature, and only then memory: a forged request leaves nothing behind.  All of it runs inline
(about as long as one signature check); it is never worth a thread.

Source: ``docs/wire.md``; the same ground as RFC 9421, with the coverage fixed.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from r3mes.actors.requests.canonical import framed, pack, unpack
from r3mes.actors.requests.header import (
    BODY_CAP,
    HEADER_CAP,
    MAX_PRICE,
    MAX_TOKENS,
    MAX_TTL_MS,
    METHOD,
    SKEW_MS,
    Header,
    decode_header,
)
from r3mes.actors.requests.multihash import multihash_of
from r3mes.actors.requests.replay import ReplayGuard
from r3mes.actors.requests.sessions import Sessions
from r3mes.chain.keys.addresses import address_of
from r3mes.chain.keys.signing import Signer, verify
from r3mes.errors import EnvelopeRefused, ModelNotFound
from r3mes.ids import Address, ModelHash, PeerId, RequestHash

DOMAIN = b"r3mes/req/v1"
WIRE_CAP = BODY_CAP + HEADER_CAP + 256
_WIRE = (int, str, bytes, bytes, bytes, bytes)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What goes out; ``hash`` is SHA-256 of the header's bytes and names the request."""

    wire: bytes
    header: Header
    hash: RequestHash


@dataclass(frozen=True, slots=True)
class VerifiedRequest:
    """What came in, once every check held."""

    header: Header
    body: bytes
    hash: RequestHash


def sign_request(
    signer: Signer,
    *,
    chain: str,
    audience: PeerId,
    epoch: bytes,
    model: ModelHash,
    body: bytes,
    max_tokens: int,
    max_price: int,
    now_ms: int,
    ttl_ms: int = 60_000,
    idem: bytes | None = None,
    parent: bytes = b"",
    sub: Address | None = None,
) -> SignedRequest:
    """Make a request with a fresh nonce.

    Args:
        signer: the wallet, or a session key (then with ``parent`` and ``sub``).
        chain: chain id.
        audience: the node that is asked.
        epoch: 8 bytes from that node's offer.
        model: which model, by content hash.
        body: an `InferJob` as bytes.
        max_tokens: cap of the answer.
        max_price: cap of its price, in uremes.
        now_ms: wall clock, unix milliseconds.
        ttl_ms: how long it may be used, at most 120 000.
        idem: 16 bytes that name the job; the same when it is tried again.
        parent: SHA-256 of the delegation to ``signer``.
        sub: the account that pays; that of ``signer`` if None.
    """
    header = Header(
        ver=1,
        chain=chain,
        aud=multihash_of(audience),
        epoch=epoch,
        alg=signer.alg,
        pub=signer.pub,
        sub=sub or signer.address,
        method=METHOD,
        model=model,
        body_sha256=hashlib.sha256(body).digest(),
        body_len=len(body),
        max_tokens=max_tokens,
        max_price=max_price,
        iat_ms=now_ms,
        exp_ms=now_ms + ttl_ms,
        nonce=secrets.token_bytes(16),
        idem=idem or secrets.token_bytes(16),
        parent=parent,
    )
    return seal(signer, header, body)


def seal(signer: Signer, header: Header, body: bytes) -> SignedRequest:
    """Sign ``header`` as it stands and put it before its body."""
    signed = header.encode()
    signature = signer.sign(framed(DOMAIN, signed))
    wire = pack((1, header.alg, header.pub, signed, signature, body))
    return SignedRequest(wire, header, _hash(signed))


class RequestVerifier:
    """Checks requests that are meant for this node; raises on the first thing that does not hold.

    Args:
        chain: our chain id.
        audience: our peer id.
        epoch: 8 random bytes of this boot.
        models: whether we serve the model of this hash.
        now_ms: wall clock, unix milliseconds.
        guard: memory of nonces.
        revoked: whether the delegation of this hash was taken back.
    """

    def __init__(
        self,
        *,
        chain: str,
        audience: PeerId,
        epoch: bytes,
        models: Callable[[ModelHash], bool],
        now_ms: Callable[[], int],
        guard: ReplayGuard,
        revoked: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        self._chain, self._epoch = chain, epoch
        self._aud = multihash_of(audience)
        self._models, self._now_ms, self._guard = models, now_ms, guard
        self._sessions = Sessions(chain=chain, audience=audience, revoked=revoked)

    def verify(self, wire: bytes, delegation: bytes = b"") -> VerifiedRequest:
        """Check a request and take its nonce.

        Raises:
            EnvelopeRefused: malformed, not for us, stale, over a limit or not signed.
            ModelNotFound: the model is not served here.
            EnvelopeReplayed: it was used before.
            Overloaded: the memory of nonces is full.
        """
        if len(wire) > WIRE_CAP:
            raise EnvelopeRefused(f"the request has {len(wire)} bytes, the cap is {WIRE_CAP}")
        fields = unpack(wire, _WIRE, "request", max_bytes=BODY_CAP)
        version, alg, pub, signed, signature, body = fields
        if version != 1:
            raise EnvelopeRefused(f"requests of version {version} are not known here")
        header = decode_header(signed)
        now_ms = self._now_ms()
        self._check_destination(header)
        _check_times(header, now_ms)
        _check_terms(header)
        _check_key(header, alg, pub)
        if not self._models(header.model):
            raise ModelNotFound(f"this node does not serve the model {header.model.hex()[:16]}…")
        if len(body) != header.body_len or hashlib.sha256(body).digest() != header.body_sha256:
            raise EnvelopeRefused("the body is not the one that was signed").because("body")
        if not verify(alg, pub, framed(DOMAIN, signed), signature):
            raise EnvelopeRefused("the signature does not hold").because("signature")
        self._remember(header, delegation, now_ms)
        return VerifiedRequest(header, body, _hash(signed))

    def settle(self, header: Header, price: int) -> None:
        """Say what an accepted request cost: a session gets back what it did not spend.

        Only the first call for a request counts, so it may follow again when what came after fails.
        """
        self._sessions.settle(header, price)

    def _check_destination(self, header: Header) -> None:
        if header.aud != self._aud:
            raise EnvelopeRefused("the request is for another node").because("audience")
        if header.chain != self._chain:
            raise EnvelopeRefused(f"the request is for another chain than {self._chain}").because(
                "chain"
            )
        if header.epoch != self._epoch:
            raise EnvelopeRefused(
                "the request was made before this node last started", do="connect and sign again"
            ).because("epoch")

    def _remember(self, header: Header, delegation: bytes, now_ms: int) -> None:
        try:
            lent = self._sessions.check(header, delegation, now_ms) if header.parent else None
        except EnvelopeRefused as error:
            raise error.because("delegation") from None
        self._guard.remember(header.sub, header.nonce, header.exp_ms)
        if lent:
            self._sessions.reserve(header, lent)


def _check_times(header: Header, now_ms: int) -> None:
    if not 0 < header.exp_ms - header.iat_ms <= MAX_TTL_MS:
        raise EnvelopeRefused(
            f"a request lasts more than 0 and at most {MAX_TTL_MS // 1000} s"
        ).because("clock")
    if (ahead := header.iat_ms - now_ms) > SKEW_MS:
        raise EnvelopeRefused(
            f"the request was signed {ahead // 1000} s ahead of our clock"
        ).because("clock")
    if (late := now_ms - header.exp_ms) > SKEW_MS:
        raise EnvelopeRefused(f"the request expired {late // 1000} s ago by our clock").because(
            "clock"
        )


def _check_terms(header: Header) -> None:
    if header.ver != 1 or header.method != METHOD:
        raise EnvelopeRefused(f"only {METHOD!r} of version 1 is known here").because("terms")
    if not 0 < header.max_tokens <= MAX_TOKENS:
        raise EnvelopeRefused(f"max_tokens is not within 1 and {MAX_TOKENS}").because("terms")
    if not 0 <= header.max_price <= MAX_PRICE:
        raise EnvelopeRefused("max_price is out of range").because("terms")


def _check_key(header: Header, alg: str, pub: bytes) -> None:
    if alg != header.alg or pub != header.pub:
        raise EnvelopeRefused("the key beside the header is not the one in it").because("account")
    if not header.parent and address_of(alg, pub) != header.sub:
        raise EnvelopeRefused(
            "the key does not belong to the account that the request names"
        ).because("account")


def _hash(signed: bytes) -> RequestHash:
    return RequestHash(hashlib.sha256(signed).digest())
