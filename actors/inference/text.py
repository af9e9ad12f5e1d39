"""A loaded model's text side: messages to token ids, in a thread, within limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import trio
from tokenizers import Tokenizer

from r3mes.actors.inference.detokenise import Writer
from r3mes.actors.inference.grammar import compiled
from r3mes.actors.inference.interrupt import run_interruptibly
from r3mes.actors.inference.protocol import Loaded
from r3mes.actors.inference.spelling import Spelling
from r3mes.actors.inference.template import PLAIN, ChatTemplate
from r3mes.errors import BadRequest, ContextLengthExceeded, ModelInvalid

RENDER_TIMEOUT = 5.0
"""Seconds for template and tokenizer together."""
THREADS = 2
"""Prompts of one model made at the same time."""


class Text:
    """Template and tokenizer of one model.

    Raises:
        ModelInvalid: either cannot be used.
    """

    def __init__(self, loaded: Loaded) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(loaded.tokenizer)
            self._template = ChatTemplate(loaded.chat_template or PLAIN, loaded.special_tokens)
        except Exception as error:
            raise ModelInvalid(f"tokenizer or chat template cannot be used: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.spelling = Spelling(self._tokenizer)
        self._context, self._vocabulary = loaded.context, loaded.vocabulary
        longest = max(map(len, self._tokenizer.get_vocab()), default=1)
        self._byte_cap = loaded.context * longest
        self._threads = trio.CapacityLimiter(THREADS)

    async def prompt(self, messages: Sequence[Mapping[str, object]]) -> tuple[int, ...]:
        """Token ids of the conversation, ready for the answer.

        Raises:
            BadRequest: the messages do not suit the template, or are not text.
            ContextLengthExceeded: so long that it was not even counted.
        """
        try:
            return await run_interruptibly(
                partial(self._prompt, messages), timeout=RENDER_TIMEOUT, limiter=self._threads
            )
        except trio.TooSlowError:
            raise BadRequest(
                f"the prompt was not made in {RENDER_TIMEOUT:g} s by the model's chat template",
                param="messages",
            ) from None

    async def grammar(self, kind: str, source: str) -> str:
        """The grammar in the form that the worker follows; empty if ``kind`` is.

        Raises:
            BadRequest: it cannot be used.
        """
        if not kind:
            return ""
        try:
            return await run_interruptibly(
                partial(compiled, kind, source), timeout=RENDER_TIMEOUT, limiter=self._threads
            )
        except trio.TooSlowError:
            raise BadRequest(
                f"the {kind} was not compiled in {RENDER_TIMEOUT:g} s", param="grammar"
            ) from None

    async def writer(self, stops: Sequence[str], emitted: Sequence[int]) -> Writer:
        """For the text of one answer that goes on behind ``emitted``."""
        if not emitted:
            return Writer(self._tokenizer, stops)
        return await trio.to_thread.run_sync(
            Writer, self._tokenizer, stops, emitted, limiter=self._threads
        )

    def _prompt(self, messages: Sequence[Mapping[str, object]]) -> tuple[int, ...]:
        text = self._template.render(messages)
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise BadRequest(f"the messages are not text: {error}", param="messages") from None
        if size > self._byte_cap:
            raise ContextLengthExceeded(
                f"the prompt has {size} bytes, and the {self._context} tokens of the model's "
                f"context hold {self._byte_cap} at most",
                param="messages",
            )
        ids = tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
        if not ids or max(ids) >= self._vocabulary:
            raise BadRequest("the prompt has no tokens that the model knows", param="messages")
        return ids
