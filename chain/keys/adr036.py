"""Off-chain signatures that every Cosmos wallet can make (Keplr's ``signArbitrary``, Ledger).

The text is wrapped in a transaction that no chain takes: empty chain id, sequence 0, no fee.

Source: Cosmos ADR-036, with chain id "" as all wallets write it (the text of the ADR says
otherwise).  The envelope names no site and no chain, so the signed *text* must name both.
"""

from __future__ import annotations

import base64

from r3mes.chain.keys.addresses import address_of
from r3mes.chain.keys.signing import Signer, verify
from r3mes.errors import EnvelopeRefused
from r3mes.ids import Address

# Amino JSON: sorted keys, no spaces.  Base64 and bech32 hold nothing that needs escaping.
_DOCUMENT = (
    '{"account_number":"0","chain_id":"","fee":{"amount":[],"gas":"0"},"memo":"",'
    '"msgs":[{"type":"sign/MsgSignData","value":{"data":"%s","signer":"%s"}}],"sequence":"0"}'
)


def sign_bytes(signer: Address, data: bytes) -> bytes:
    """What a wallet signs when asked to sign ``data``."""
    return (_DOCUMENT % (base64.b64encode(data).decode(), signer)).encode()


def sign_text(wallet: Signer, text: str) -> bytes:
    """Sign ``text`` as a wallet extension would: 64 bytes."""
    return wallet.sign(sign_bytes(wallet.address, text.encode()))


def verify_text(alg: str, pub: bytes, text: str, signature: bytes) -> bool:
    """Whether the account of ``pub`` signed ``text``; never for an empty text, as in Keplr."""
    try:
        signer = address_of(alg, pub)
    except EnvelopeRefused:
        return False
    return bool(text) and verify(alg, pub, sign_bytes(signer, text.encode()), signature)
