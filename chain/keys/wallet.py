"""A person's wallet: words that can be written on paper, and the account key made of them.

Source: BIP-39 (English list), BIP-44 with coin type 118 as other Cosmos wallets, or 9999.
"""

from __future__ import annotations

import secrets
import unicodedata
from functools import cache

from mnemonic import Mnemonic

from r3mes.chain.keys.bip32 import COSMOS, account_path, derive
from r3mes.chain.keys.signing import Secp256k1Signer
from r3mes.errors import MnemonicInvalid

LENGTHS = (12, 15, 18, 21, 24)


class Wallet(Secp256k1Signer):
    """The words and the signer of their first account.

    Making one stretches the words (PBKDF2, about 3 ms): callers on an event loop use a thread.

    Args:
        words: 12 to 24 words of the BIP39 list; case and spacing do not matter.
        coin_type: 118, or 9999 for accounts made with the chain's own number.

    Raises:
        MnemonicInvalid: says which word is wrong, by its position and not by the word.
    """

    def __init__(self, words: str, *, coin_type: int = COSMOS) -> None:
        self.coin_type = coin_type
        self._words = check_words(words)
        seed = Mnemonic.to_seed(self._words)
        super().__init__(derive(seed, account_path(coin_type)))

    @classmethod
    def create(cls) -> Wallet:
        """A new wallet of 24 words, from the system's randomness."""
        return cls(_english().to_mnemonic(secrets.token_bytes(32)))

    def reveal_words(self) -> str:
        """The words, for a backup on paper: never log them, never send them."""
        return self._words

    def __repr__(self) -> str:
        return f"Wallet({self.address})"


def check_words(words: str) -> str:
    """The words with one space between them, if they are a BIP39 mnemonic.

    Raises:
        MnemonicInvalid: what is wrong; the words themselves are never repeated.
    """
    each = unicodedata.normalize("NFKD", words).lower().split()
    if len(each) not in LENGTHS:
        raise MnemonicInvalid(f"{len(each)} words, where a mnemonic has 12, 15, 18, 21 or 24")
    known = frozenset(_english().wordlist)
    if wrong := [str(at) for at, word in enumerate(each, 1) if word not in known]:
        which = f"word {wrong[0]} is" if len(wrong) == 1 else f"words {', '.join(wrong)} are"
        raise MnemonicInvalid(f"{which} not in the BIP39 list of English words")
    if not _english().check(" ".join(each)):
        raise MnemonicInvalid(
            "every word is in the list but the checksum does not fit: "
            "a word is another one of the list, or two are swapped"
        )
    return " ".join(each)


@cache
def _english() -> Mnemonic:
    return Mnemonic("english")
