"""A wallet lends an account to a session key, by signing one text that a person can read.

The hot path is then signed by a key that lives in the machine, within limits that the text names:
one chain, some nodes or any, a sum, at most 24 hours.

Source: ADR-036 for the signature; the text is modelled on CAIP-122.  Chained delegations are left
out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from r3mes.actors.requests.canonical import pack, unpack
from r3mes.actors.requests.multihash import multihash_of
from r3mes.chain.keys.addresses import address_of
from r3mes.chain.keys.adr036 import sign_text, verify_text
from r3mes.chain.keys.signing import Signer
from r3mes.errors import EnvelopeRefused
from r3mes.ids import Address, PeerId

MAX_TTL_S = 24 * 3600
MAX_AUDIENCES = 8
MAX_SPEND = (1 << 63) - 1
DELEGATION_CAP = 2048

_TEXT = """\
R3MES-SESSION-V1
Until it expires, this session key may spend from this account.
chain: {chain}
account: {account}
session: {session}
nodes: {nodes}
limit: {limit} uremes
issued: {issued}
expires: {expires}"""
_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"
_NODE = r"[1-9A-Za-z]{1,64}"
_PATTERN = re.compile(
    re.escape(_TEXT)
    .replace(r"\{chain\}", r"([\x21-\x7e]{1,50})")
    .replace(r"\{account\}", r"([a-z0-9]{1,64})")
    .replace(r"\{session\}", r"([0-9a-f]{64})")
    .replace(r"\{nodes\}", rf"(\*|{_NODE}(?:,{_NODE}){{0,{MAX_AUDIENCES - 1}}})")
    .replace(r"\{limit\}", r"([0-9]{1,19})")
    .replace(r"\{issued\}", f"({_TIME})")
    .replace(r"\{expires\}", f"({_TIME})")
)


@dataclass(frozen=True, slots=True)
class Delegation:
    """What the text says.

    Args:
        chain: chain id.
        account: the wallet that lends.
        session: ed25519 public key that may sign, 32 bytes.
        nodes: who may be asked, at most 8; empty means any.
        limit: uremes that may be spent, at each node.
        issued: unix seconds.
        expires: unix seconds, at most 24 h later.
    """

    chain: str
    account: Address
    session: bytes
    nodes: tuple[PeerId, ...]
    limit: int
    issued: int
    expires: int

    def text(self) -> str:
        """What the wallet signs."""
        return _TEXT.format(
            chain=self.chain,
            account=self.account,
            session=self.session.hex(),
            nodes=",".join(self.nodes) or "*",
            limit=self.limit,
            issued=_write_time(self.issued),
            expires=_write_time(self.expires),
        )


def delegate(wallet: Signer, delegation: Delegation) -> bytes:
    """Sign ``delegation``; the bytes go beside every request of the session.

    Raises:
        EnvelopeRefused: no verifier would take it.
    """
    text = delegation.text()
    _check_terms(_read_text(text))
    return pack((1, wallet.alg, wallet.pub, text, sign_text(wallet, text)))


def decode_delegation(data: bytes) -> Delegation:
    """Read a delegation and check the wallet's signature; the times are for the verifier.

    Raises:
        EnvelopeRefused: not well-formed, over a limit, or not signed by the account it names.
    """
    if len(data) > DELEGATION_CAP:
        raise EnvelopeRefused(f"the delegation has {len(data)} bytes, the cap is {DELEGATION_CAP}")
    fields = unpack(data, (int, str, bytes, str, bytes), "delegation", max_text=DELEGATION_CAP)
    version, alg, pub, text, signature = fields
    if version != 1:
        raise EnvelopeRefused(f"delegations of version {version} are not known here")
    delegation = _read_text(text)
    _check_terms(delegation)
    if not verify_text(alg, pub, text, signature):
        raise EnvelopeRefused("the signature of the delegation does not hold")
    if address_of(alg, pub) != delegation.account:
        raise EnvelopeRefused("the delegation is signed by another account than it names")
    return delegation


def _read_text(text: str) -> Delegation:
    if (match := _PATTERN.fullmatch(text)) is None:
        raise EnvelopeRefused("the text of the delegation is not in its one form")
    chain, account, session, nodes, limit, issued, expires = match.groups()
    try:
        delegation = Delegation(
            chain=chain,
            account=Address(account),
            session=bytes.fromhex(session),
            nodes=() if nodes == "*" else tuple(PeerId(node) for node in nodes.split(",")),
            limit=int(limit),
            issued=_read_time(issued),
            expires=_read_time(expires),
        )
    except ValueError:  # a day such as 2026-02-30
        raise EnvelopeRefused("a time in the delegation is not one") from None
    if delegation.text() != text:  # such as a number with zeros in front
        raise EnvelopeRefused("the text of the delegation is not in its one form")
    return delegation


def _check_terms(delegation: Delegation) -> None:
    if not 0 < delegation.expires - delegation.issued <= MAX_TTL_S:
        raise EnvelopeRefused("a delegation lasts at most 24 hours")
    if not 0 < delegation.limit <= MAX_SPEND:
        raise EnvelopeRefused("the spend limit of the delegation is out of range")
    for node in delegation.nodes:
        multihash_of(node)


def _write_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read_time(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())
