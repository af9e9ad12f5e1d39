"""Following a grammar token by token, in the worker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from r3mes.actors.inference.deep import on_deep_stack
from r3mes.actors.inference.grammar import LIMITS, refused
from r3mes.actors.inference.sampling import Logits
from r3mes.errors import BadRequest


class Guide:
    """Follows a grammar along one answer."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary
        self._mask = np.zeros((vocabulary + 31) // 32, np.int32)
        self.finished = bool(matcher.is_stopped())
        """The answer is whole: nothing may follow."""

    def allowed(self, logits: Logits) -> Logits:
        """The logits of the tokens that may come next; all others are impossible.

        Raises:
            BadRequest: the grammar became too complex here.
        """
        mask = self._mask
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        self._check()
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(logits)].astype(bool)
        if not bits.any():
            raise refused("grammar", "none of the model's tokens can come next")
        return np.where(bits, logits, np.float32(-np.inf))

    def take(self, token: int) -> None:
        """The answer goes on with ``token``, which was allowed.

        Raises:
            BadRequest: the grammar became too complex here.
        """
        self._matcher.consume_token(token)
        self._check()
        self.finished = bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise refused("grammar", self._matcher.get_error())


class Guides:
    """Makes guides for the tokens of one model.

    Args:
        tokenizer: of the ``tokenizers`` library, as its JSON text.
        vocabulary: token ids are below it.
        stop_ids: the model's own ends of an answer.
    """

    def __init__(self, tokenizer: str, vocabulary: int, stop_ids: Sequence[int]) -> None:
        self._text, self._vocabulary, self._stop_ids = tokenizer, vocabulary, list(stop_ids)
        self._tokens: LLTokenizer | None = None

    def guide(self, grammar: str, emitted: Sequence[int]) -> Guide:
        """A guide that stands behind ``emitted``; may take a second, so call it from a thread.

        Args:
            grammar: as `compiled` gives it.
            emitted: token ids of the answer that were written before.

        Raises:
            BadRequest: too complex for this model, or ``emitted`` does not follow it.
        """
        return on_deep_stack(lambda: self._guide(grammar, emitted))

    def _guide(self, grammar: str, emitted: Sequence[int]) -> Guide:
        matcher = LLMatcher(self._known_tokens(), grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise refused("grammar", matcher.get_error())
        if matcher.try_consume_tokens(list(emitted)) != len(emitted):
            raise BadRequest("what was emitted does not follow the grammar", param="emitted")
        return Guide(matcher, self._vocabulary)

    def _known_tokens(self) -> LLTokenizer:
        if self._tokens is None:  # half a second for a large vocabulary, and few requests need it
            try:
                self._tokens = LLTokenizer(
                    self._text, n_vocab=self._vocabulary, eos_token=self._stop_ids or None
                )
            except ValueError as error:
                raise refused("grammar", f"the model's tokenizer is of no use: {error}") from None
        return self._tokens
