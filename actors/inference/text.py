"""A loaded model's text side: messages to token ids, in a thread, within limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import trio
from tokenizers import Tokenizer

from r3mes.actors.inference.calls import CallForm, Tool, call_grammar, form_of
from r3mes.actors.inference.detokenise import NOTHING, Writer
from r3mes.actors.inference.grammar import compiled, compiled_lark
from r3mes.actors.inference.interrupt import run_interruptibly
from r3mes.actors.inference.protocol import Loaded
from r3mes.actors.inference.spelling import Spelling
from r3mes.actors.inference.template import PLAIN, ChatTemplate
from r3mes.errors import BadRequest, ContextLengthExceeded, ModelInvalid

R = TypeVar("R")

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
            self._template_text = loaded.chat_template or PLAIN
            self._template = ChatTemplate(self._template_text, loaded.special_tokens)
        except Exception as error:
            raise ModelInvalid(f"tokenizer or chat template cannot be used: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.spelling = Spelling(self._tokenizer)
        self._context, self._vocabulary = loaded.context, loaded.vocabulary
        longest = max(map(len, self._tokenizer.get_vocab()), default=1)
        self._byte_cap = loaded.context * longest
        self._threads = trio.CapacityLimiter(THREADS)

    async def prompt(
        self,
        messages: Sequence[Mapping[str, object]],
        tools: Sequence[Tool] = (),
    ) -> tuple[int, ...]:
        """Token ids of the conversation, ready for the answer.

        Raises:
            BadRequest: the messages do not suit the template, or are not text.
            ContextLengthExceeded: so long that it was not even counted.
        """
        return await self._within_limits(
            partial(self._prompt, messages, tools),
            "the prompt was not made by the model's chat template",
            "messages",
        )

    def call_form(self, tools: Sequence[Tool]) -> CallForm | None:
        """How the model writes calls of tools; None if there are none.

        Raises:
            BadRequest: its chat template has no place for tools, or shows a form unknown here.
        """
        return form_of(self._template_text) if tools else None

    async def grammar(self, kind: str, source: str) -> str:
        """The grammar in the form that the worker follows; empty if ``kind`` is.

        Raises:
            BadRequest: it cannot be used.
        """
        if not kind:
            return ""
        compiling = partial(compiled, kind, source)
        return await self._within_limits(compiling, f"the {kind} was not compiled", "grammar")

    async def call_grammar(self, form: CallForm, tools: Sequence[Tool], call: str) -> str:
        """The grammar of a call of a tool.

        Args:
            form: of the call.
            tools: those that there are.
            call: the name of the one to call; ``*`` for any.

        Raises:
            BadRequest: the parameters of a tool are no JSON schema that can be followed.
        """
        special = {text: token for token, text in self._marks(form).items()}
        compiling = partial(_compiled_call, form, tools, call, special)
        return await self._within_limits(compiling, "the tools were not compiled", "tools")

    async def writer(
        self, stops: Sequence[str], emitted: Sequence[int], form: CallForm | None
    ) -> Writer:
        """For the text of one answer that goes on behind ``emitted``.

        Args:
            stops: it ends before any of these.
            emitted: token ids.
            form: of calls of tools, whose marks are a part of the text.
        """
        shown = self._marks(form) if form else NOTHING
        if not emitted:
            return Writer(self._tokenizer, stops, (), shown)
        return await trio.to_thread.run_sync(
            Writer, self._tokenizer, stops, emitted, shown, limiter=self._threads
        )

    def _marks(self, form: CallForm) -> dict[int, str]:
        """The special tokens among the marks of a form."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {
            token: one.content
            for token, one in added.items()
            if one.special and one.content in form.marks
        }

    async def _within_limits(self, work: Callable[[], R], failed: str, param: str) -> R:
        try:
            return await run_interruptibly(work, timeout=RENDER_TIMEOUT, limiter=self._threads)
        except trio.TooSlowError:
            raise BadRequest(f"{failed} in {RENDER_TIMEOUT:g} s", param=param) from None

    def _prompt(
        self, messages: Sequence[Mapping[str, object]], tools: Sequence[Tool]
    ) -> tuple[int, ...]:
        text = self._template.render(messages, tools)
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


def _compiled_call(
    form: CallForm, tools: Sequence[Tool], call: str, special: Mapping[str, int]
) -> str:
    return compiled_lark(call_grammar(form, tools, call, special))
