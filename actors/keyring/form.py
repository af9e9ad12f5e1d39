"""The form of a key: ``r3k_<id>_<secret>_<checksum>``.

An id of 8 characters that may be shown, 32 random bytes in base62, and the CRC-32 of all before it
in base62, so that a mistyped key is recognised without a look-up and a leaked one by a scanner.
Only the SHA-256 of the whole is stored: against 256 random bits no slow hash is needed.

Source: GitHub, "Behind GitHub's new authentication token formats" (2021), for prefix and checksum.
"""

from __future__ import annotations

import hashlib
import secrets
import zlib

from r3mes.errors import Unauthenticated

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARS, _SECRET_CHARS, _CRC_CHARS = 8, 43, 6  # 62**43 > 2**256, 62**6 > 2**32


def new_id() -> str:
    """The id of a key to be made."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))


def new_secret(key_id: str) -> str:
    """A secret for the key ``key_id``."""
    return with_checksum(f"r3k_{key_id}_{_base62(secrets.randbits(256), _SECRET_CHARS)}")


def id_of(secret: str) -> str:
    """The id of the key that ``secret`` belongs to.

    Raises:
        Unauthenticated: it has not the form of one.
    """
    body, _, _ = secret.rpartition("_")
    prefix, _, key_id = body[: len("r3k_") + _ID_CHARS].partition("_")
    if not secret.isascii() or prefix != "r3k" or secret != with_checksum(body):
        raise Unauthenticated("this is not a whole API key (r3k_…)")
    return key_id


def with_checksum(body: str) -> str:
    """``body`` and its checksum."""
    return f"{body}_{_base62(zlib.crc32(body.encode()), _CRC_CHARS)}"


def hash_of(secret: str) -> bytes:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def _base62(number: int, chars: int) -> str:
    digits = []
    for _ in range(chars):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
