"""The bytes of single tokens, which decoders of whole texts do not tell.

Such as half of a character, or the space in front of a word.

Source: GPT-2's byte alphabet (Radford et al. 2019, ``bytes_to_unicode``); SentencePiece's mark for
a space and its byte tokens.  A tokenizer of another kind is spelled by its vocabulary.
"""

from __future__ import annotations

import re
import struct
from functools import cache

from tokenizers import Tokenizer

from r3mes.actors.requests.logprobs import Logprob, encode_record

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class Spelling:
    """Spells the tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._in_bytes = "ByteLevel" in repr(tokenizer.decoder)

    def __call__(self, token: int) -> bytes:
        """The bytes of ``token``; none if it has no text."""
        text = self._tokenizer.id_to_token(token) or ""
        if self._in_bytes:
            alphabet = _alphabet()
            if all(mark in alphabet for mark in text):  # not a token that was added as it reads
                return bytes(alphabet[mark] for mark in text)
        elif single := _BYTE.fullmatch(text):
            return bytes.fromhex(single[1])
        return text.replace(_SPACE, " ").encode()


def records_of(packed: bytes, count: int, spell: Spelling) -> tuple[bytes, ...]:
    """Log-probabilities that the worker told, as records for the wire: one for each token.

    Args:
        packed: pairs of token id and log-probability, see `r3mes.actors.inference.logprobs`.
        count: of them for each token.
        spell: names the tokens.
    """
    entries = [Logprob(spell(token), value) for token, value in struct.iter_unpack("<If", packed)]
    return tuple(encode_record(entries[at : at + count]) for at in range(0, len(entries), count))


@cache
def _alphabet() -> dict[str, int]:
    """The byte that each character stands for: printable ones for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(256 + at): byte for at, byte in enumerate(rest)}
    return {chr(byte): byte for byte in printable} | shifted
