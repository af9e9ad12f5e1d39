"""Token ids for text that comes in pieces, from a server that gives no ids."""

from __future__ import annotations

from tokenizers import Tokenizer

HELD_CAP = 64
"""Characters without a space after which a word counts as whole (some scripts have none)."""
ANCHORS = ("\n", "0", "a")


class Retokeniser:
    """Cuts text into tokens word by word: a word is whole when the next one begins.

    Each piece is encoded behind an anchor that is taken off again, as some tokenizers put a space
    before the first word of a text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._held = ""

    def feed(self, text: str) -> tuple[int, ...]:
        """The ids of what ``text`` makes whole."""
        self._held += text
        cut = max(self._held.rfind(" "), self._held.rfind("\n"))
        if cut <= 0:
            return self.flush() if len(self._held) > HELD_CAP else ()
        whole, self._held = self._held[:cut], self._held[cut:]
        return self._encode(whole)

    def flush(self) -> tuple[int, ...]:
        """The ids of the rest."""
        whole, self._held = self._held, ""
        return self._encode(whole) if whole else ()

    def _encode(self, text: str) -> tuple[int, ...]:
        for anchor in ANCHORS:
            before = self._ids(anchor)
            ids = self._ids(anchor + text)
            if ids[: len(before)] == before:
                return ids[len(before) :]
        return self._ids(text)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
