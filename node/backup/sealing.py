"""A backup under a passphrase, for places that others can read.

Argon2id stretches the passphrase and XChaCha20-Poly1305 seals the file in pieces, the last of which
is marked: one that is cut off, changed or put in another order does not open.

Source: libsodium's secretstream (crypto_secretstream_xchacha20poly1305), RFC 9106.
"""

from __future__ import annotations

import secrets
import struct
import unicodedata
from pathlib import Path

from nacl.bindings import (
    crypto_secretstream_xchacha20poly1305_ABYTES,
    crypto_secretstream_xchacha20poly1305_HEADERBYTES,
    crypto_secretstream_xchacha20poly1305_init_pull,
    crypto_secretstream_xchacha20poly1305_init_push,
    crypto_secretstream_xchacha20poly1305_pull,
    crypto_secretstream_xchacha20poly1305_push,
    crypto_secretstream_xchacha20poly1305_state,
    crypto_secretstream_xchacha20poly1305_TAG_FINAL,
    crypto_secretstream_xchacha20poly1305_TAG_MESSAGE,
)
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id

from r3mes.errors import BackupInvalid, NotFound, PassphraseWrong
from r3mes.node.backup.disk import new_file

MAGIC = b"r3mes-sealed-1\n"
HEAD = struct.Struct(">BI16s")
"""Passes, memory in KiB, salt."""
OPS, MEMORY_KIB = 3, 128 << 10
MOST_OPS, MOST_MEMORY_KIB = 16, 1 << 20
"""What a file may ask for: a hostile one must not take an hour or all memory."""
PIECE = 1 << 16
SEALED_PIECE = PIECE + crypto_secretstream_xchacha20poly1305_ABYTES


def is_sealed(file: Path) -> bool:
    """Whether ``file`` needs a passphrase.

    Raises:
        NotFound: there is no such file.
        BackupInvalid: it cannot be read.
    """
    try:
        with file.open("rb") as content:
            return content.read(len(MAGIC)) == MAGIC
    except FileNotFoundError:
        raise NotFound(f"there is no file {file}", do="name one that is there") from None
    except OSError as error:
        raise BackupInvalid(f"{file}: {error.strerror}", do="name a file") from None


def seal(source: Path, target: Path, passphrase: str) -> None:
    """Write ``source`` sealed into the new file ``target``."""
    head = HEAD.pack(OPS, MEMORY_KIB, secrets.token_bytes(16))
    state = crypto_secretstream_xchacha20poly1305_state()
    stream = crypto_secretstream_xchacha20poly1305_init_push(state, _key(head, passphrase))
    with source.open("rb") as content, new_file(target) as out:
        out.write(MAGIC + head + stream)
        piece = content.read(PIECE)
        while piece:
            following = content.read(PIECE)
            last = crypto_secretstream_xchacha20poly1305_TAG_FINAL
            tag = crypto_secretstream_xchacha20poly1305_TAG_MESSAGE if following else last
            out.write(crypto_secretstream_xchacha20poly1305_push(state, piece, head, tag))
            piece = following


def unseal(source: Path, target: Path, passphrase: str) -> None:
    """Write what is sealed in ``source`` into the new file ``target``.

    Raises:
        PassphraseWrong: it does not open the first piece; which may also be damaged.
        BackupInvalid: it is cut off or changed.
    """
    with source.open("rb") as content, new_file(target) as out:
        head = content.read(len(MAGIC) + HEAD.size)[len(MAGIC) :]
        stream = content.read(crypto_secretstream_xchacha20poly1305_HEADERBYTES)
        if len(stream) < crypto_secretstream_xchacha20poly1305_HEADERBYTES:
            raise BackupInvalid(f"{source} is cut off")
        state = crypto_secretstream_xchacha20poly1305_state()
        key = _key(head, passphrase)
        crypto_secretstream_xchacha20poly1305_init_pull(state, stream, key)
        first, tag = True, crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
        while piece := content.read(SEALED_PIECE):
            try:
                plain, tag = crypto_secretstream_xchacha20poly1305_pull(state, piece, head)
            except (CryptoError, ValueError):
                if first:
                    raise PassphraseWrong(
                        f"the passphrase does not open {source}, or its beginning is damaged",
                        do="try again with the one that it was sealed with; there is no other way",
                    ) from None
                raise BackupInvalid(f"{source} was changed or cut off") from None
            out.write(plain)
            first = False
        if tag != crypto_secretstream_xchacha20poly1305_TAG_FINAL:
            raise BackupInvalid(f"{source} is cut off")


def _key(head: bytes, passphrase: str) -> bytes:
    ops, memory_kib, salt = HEAD.unpack(head)
    if not (1 <= ops <= MOST_OPS and 8 <= memory_kib <= MOST_MEMORY_KIB):
        raise BackupInvalid("it asks for more work than a backup of ours")
    normal = unicodedata.normalize("NFKC", passphrase).encode()  # however accents are composed
    return argon2id.kdf(32, normal, salt, opslimit=ops, memlimit=memory_kib << 10)
