"""From a seed to the key of one account.

Source: BIP-32 (private derivation only) and BIP-44 for the path.  Extended keys (``xprv…``) and
public derivation are left out: the node keeps the seed and needs one key of it.
"""

from __future__ import annotations

import hmac

from coincurve import PrivateKey

from r3mes.errors import WalletError

HARDENED = 0x8000_0000
COSMOS = 118
REMES = 9999


def account_path(coin_type: int = COSMOS, account: int = 0, index: int = 0) -> tuple[int, ...]:
    """``m/44'/coin_type'/account'/0/index`` as numbers."""
    return (44 | HARDENED, coin_type | HARDENED, account | HARDENED, 0, index)


def derive(seed: bytes, path: tuple[int, ...]) -> bytes:
    """The secret of 32 bytes at ``path`` below ``seed`` (16 to 64 bytes).

    Raises:
        WalletError: the path has no key; the chance is 2^-127.
    """
    digest = hmac.digest(b"Bitcoin seed", seed, "sha512")
    secret, chain_code = digest[:32], digest[32:]
    try:
        for index in path:
            secret, chain_code = _child(PrivateKey(secret), chain_code, index)
        return PrivateKey(secret).secret
    except ValueError:  # zero, or not below the order of the curve
        raise WalletError("this seed has no key at this path", do="make a new wallet") from None


def _child(parent: PrivateKey, chain_code: bytes, index: int) -> tuple[bytes, bytes]:
    hardened = index >= HARDENED
    data = b"\x00" + parent.secret if hardened else parent.public_key.format()
    digest = hmac.digest(chain_code, data + index.to_bytes(4, "big"), "sha512")
    return parent.add(digest[:32]).secret, digest[32:]
