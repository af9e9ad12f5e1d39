"""A wallet in a file, encrypted with a passphrase.

Argon2id stretches the passphrase and XChaCha20-Poly1305 seals the words, with the rest of the
file as associated data.  A checksum over the file, which hides nothing, tells damage from a wrong
passphrase.  A file is never overwritten: it appears whole, or not at all.

Stretching takes about a quarter of a second and 128 MiB, on purpose: callers on an event loop run
`create_keystore` and `open_keystore` in a thread.

Source: RFC 9106 (argon2id) and libsodium's XChaCha20-Poly1305.  Keys other than a mnemonic's are
left out: a node's key has a file of its own, without passphrase.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id

from r3mes.chain.keys.addresses import parse_address
from r3mes.chain.keys.secret_file import read_secret
from r3mes.chain.keys.wallet import Wallet
from r3mes.config.secrets import create_secret
from r3mes.errors import (
    BadRequest,
    PassphraseWrong,
    StoreFull,
    WalletError,
    WalletExists,
    WalletMissing,
)
from r3mes.ids import Address

FILE_CAP = 16 * 1024


@dataclass(frozen=True, slots=True)
class KdfCost:
    """What stretching a passphrase costs: so many passes over so many bytes of memory."""

    ops: int
    memory: int


COST = KdfCost(ops=3, memory=128 << 20)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file; a hostile one must not make us stretch for an hour or take all memory."""

    address: str
    coin_type: Annotated[int, Meta(ge=0, lt=1 << 31)]
    kdf: Literal["argon2id"]
    ops: Annotated[int, Meta(ge=1, le=16)]
    memory: Annotated[int, Meta(ge=8 << 10, le=1 << 30)]  # bytes
    salt: Annotated[bytes, Meta(min_length=16, max_length=16)]
    cipher: Literal["xchacha20-poly1305"]
    nonce: Annotated[bytes, Meta(min_length=24, max_length=24)]
    sealed: Annotated[bytes, Meta(min_length=16, max_length=1024)] = b""
    checksum: str = ""
    version: Literal[1] = 1

    def without_secret(self) -> bytes:
        return msgspec.json.encode(msgspec.structs.replace(self, sealed=b"", checksum=""))

    def summed(self) -> _File:
        blank = msgspec.json.encode(msgspec.structs.replace(self, checksum=""))
        return msgspec.structs.replace(self, checksum=hashlib.sha256(blank).hexdigest())


class _Version(msgspec.Struct, frozen=True):
    version: int


def create_keystore(path: Path, wallet: Wallet, passphrase: str, *, cost: KdfCost = COST) -> None:
    """Write ``wallet`` into a new file of mode 0600; its folders are made with 0700.

    Raises:
        WalletExists: there is a file; nothing was changed.
        StoreFull: there is no room for it.
        WalletError: the passphrase is empty, or the file cannot be written.
    """
    if not passphrase:
        raise WalletError("the passphrase is empty", do="choose a passphrase")
    if path.exists():  # before stretching; `create_secret` decides
        raise WalletExists(f"{path} is there already")
    file = _File(
        address=wallet.address,
        coin_type=wallet.coin_type,
        kdf="argon2id",
        ops=cost.ops,
        memory=cost.memory,
        salt=secrets.token_bytes(16),
        cipher="xchacha20-poly1305",
        nonce=secrets.token_bytes(24),
    )
    sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(
        wallet.reveal_words().encode(), file.without_secret(), file.nonce, _key(file, passphrase)
    )
    whole = msgspec.structs.replace(file, sealed=sealed).summed()
    try:
        create_secret(path, msgspec.json.format(msgspec.json.encode(whole)) + b"\n")
    except OSError as error:
        if path.exists():
            raise WalletExists(f"{path} is there already") from None
        if error.errno == errno.ENOSPC:
            raise StoreFull(f"no space is left for {path}") from None
        raise WalletError(
            f"{path} cannot be written: {os.strerror(error.errno or 0)}",
            do="check the folder's owner and the space on its disk",
        ) from None


def open_keystore(path: Path, passphrase: str) -> Wallet:
    """Decrypt the wallet in ``path``.

    Raises:
        WalletMissing: there is no such file.
        InsecureFile: others can read it.
        PassphraseWrong: the file is whole and the passphrase does not open it.
        WalletError: the file is damaged, or from a newer version.
    """
    file = _read(path)
    key = _key(file, passphrase)
    try:
        words = crypto_aead_xchacha20poly1305_ietf_decrypt(
            file.sealed, file.without_secret(), file.nonce, key
        )
    except CryptoError:
        raise PassphraseWrong(f"the passphrase does not open {path}") from None
    wallet = Wallet(words.decode(), coin_type=file.coin_type)
    if wallet.address != file.address:
        raise WalletError(f"{path} holds the words of another account than it says")
    return wallet


def read_address(path: Path) -> Address:
    """The account in ``path``; needs no passphrase.

    Raises:
        WalletMissing: there is no such file.
        InsecureFile: others can read it.
        WalletError: the file is damaged, or from a newer version.
    """
    return Address(_read(path).address)


def _read(path: Path) -> _File:
    try:
        data = read_secret(path, cap=FILE_CAP)
    except FileNotFoundError:
        raise WalletMissing(f"there is no wallet at {path}") from None
    except OSError as error:
        raise WalletError(f"{path} cannot be read: {os.strerror(error.errno or 0)}") from None
    try:
        version = msgspec.json.decode(data, type=_Version).version
        if version > 1:
            raise WalletError(
                f"{path} is of version {version}, this program knows version 1",
                do="use the program that made it, or a newer one",
            )
        file = msgspec.json.decode(data, type=_File)
        parse_address(file.address)
    except (msgspec.DecodeError, BadRequest) as error:
        raise _damaged(path, str(error)) from None
    if file.summed() != file:
        raise _damaged(path, "its checksum does not fit")
    return file


def _damaged(path: Path, why: str) -> WalletError:
    return WalletError(
        f"{path} is damaged: {why}", do="restore it from a backup, or from the 24 words"
    )


def _key(file: _File, passphrase: str) -> bytes:
    # one passphrase, one key, however the keyboard composes its accents
    normal = unicodedata.normalize("NFKC", passphrase).encode()
    try:
        return argon2id.kdf(32, normal, file.salt, opslimit=file.ops, memlimit=file.memory)
    except CryptoError:
        raise WalletError(
            f"there is no memory for the {file.memory >> 20} MiB that opening a wallet takes",
            do="end other programs and try again",
        ) from None
