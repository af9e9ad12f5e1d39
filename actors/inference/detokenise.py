"""From token ids to text while it is being written: no half characters, no stop strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer

NOTHING: Mapping[int, str] = {}

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
HELD_MARKS = 3
"""A character has at most four bytes, so at most three marks can still become one."""
WINDOW_CAP = 64
"""Tokens decoded together at most; only a stream of broken characters gets there."""


class Detokeniser:
    """Turns ids into text, a token at a time.

    Decoders look at neighbours (a space before a word, the bytes of one character), so each token
    is decoded behind the ones before it, and what may still change is held back.

    Source: the scheme of vLLM and text-generation-inference (prefix and read offset), with a
    bound on what is held back.

    Args:
        tokenizer: special tokens have no text for it.
        shown: special tokens that are a part of the text nevertheless.
    """

    def __init__(self, tokenizer: Tokenizer, shown: Mapping[int, str] = NOTHING) -> None:
        self._tokenizer, self._shown = tokenizer, shown
        self._ids: list[int] = []  # a settled part, for context, and the part being written
        self._settled = 0
        self._told = 0  # characters of the decoded ids that were given out

    def feed(self, token: int) -> str:
        """What ``token`` makes certain; may be empty."""
        if token in self._shown:
            return self._show(token)
        self._ids.append(token)
        text = self._decode(self._ids)
        marks = len(text) - len(text.rstrip(UNKNOWN))
        settled = not marks or len(self._ids) > WINDOW_CAP
        certain = text if settled else text[: len(text) - min(marks, HELD_MARKS)]
        new = certain[self._told :]
        self._told = max(self._told, len(certain))
        if settled:
            self._settle()
        return new

    def flush(self) -> str:
        """What was held back; the stream has ended."""
        return self._decode(self._ids)[self._told :]

    def _show(self, token: int) -> str:
        """What was held back, and the text of a special token."""
        before = self.flush()
        self._ids, self._settled, self._told = [], 0, 0
        return before + self._shown[token]

    def _settle(self) -> None:
        self._ids = self._ids[self._settled :]
        self._settled = len(self._ids)
        self._told = len(self._decode(self._ids))

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


class StopScanner:
    """Passes text on up to the first stop string, which itself is not passed on."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """What can be shown now; a possible beginning of a stop string is held back."""
        self._held += text
        hits = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if hits:
            self.stopped = True
            shown, self._held = self._held[: min(hits)], ""
            return shown
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """What was held back; the stream has ended without a stop string."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that ``stop`` begins with."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


class Writer:
    """Ids in, text to show out: `Detokeniser` and `StopScanner` in a row.

    Args:
        emitted: ids of the answer that were written before; their text is not given out again,
            but what was held back behind them is.
        shown: as for `Detokeniser`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        emitted: Sequence[int] = (),
        shown: Mapping[int, str] = NOTHING,
    ) -> None:
        self._detokeniser = Detokeniser(tokenizer, shown)
        self._scanner = StopScanner(stops)
        for token in emitted:
            self.feed(token)

    @property
    def stopped(self) -> bool:
        """A stop string was found; feed no more."""
        return self._scanner.stopped

    def feed(self, token: int) -> str:
        return self._scanner.feed(self._detokeniser.feed(token))

    def finish(self) -> str:
        """The rest, when the answer ended without a stop string."""
        rest = self._scanner.feed(self._detokeniser.flush())
        return rest if self.stopped else rest + self._scanner.flush()
