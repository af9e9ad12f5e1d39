"""What the HTTP surface needs of the node, as protocols: tests give it small ones of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

from r3mes.actors.gateway import ChatRequest
from r3mes.actors.requests.logprobs import Logprob

if TYPE_CHECKING:  # it brings numpy, and the command line looks at these protocols
    from r3mes.node.embedding import Embedded, EmbeddingModel, EmbeddingRequest


class Answer(Protocol):
    """An answer under way: iterate it for its text; the figures hold after the end."""

    @property
    def model(self) -> str: ...
    @property
    def peer(self) -> str: ...
    @property
    def route(self) -> str: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def cost_uremes(self) -> int: ...
    @property
    def receipt_id(self) -> str: ...
    @property
    def queue_ms(self) -> float: ...
    @property
    def auto(self) -> Mapping[str, object] | None: ...
    @property
    def calls(self) -> str:
        """The form in which it writes calls of tools; empty if none were shown."""
        ...

    def __aiter__(self) -> AsyncIterator[str]: ...
    def new_logprobs(self) -> Sequence[Sequence[Logprob]]:
        """Of the tokens since the last call, if asked for: its own, then those of the likeliest."""
        ...


class ModelEntry(Protocol):
    """A model that can be asked for; prices in uremes per million tokens."""

    @property
    def id(self) -> str: ...
    @property
    def hash_hex(self) -> str: ...
    @property
    def context(self) -> int: ...
    @property
    def owned_by(self) -> str: ...
    @property
    def price_prompt(self) -> int: ...
    @property
    def price_completion(self) -> int: ...


class Gateway(Protocol):
    """Finds somebody who answers, here or at a peer."""

    def complete(self, request: ChatRequest) -> AbstractAsyncContextManager[Answer]:
        """Have ``request`` answered; leaving the context early cancels the answer.

        Raises:
            R3mesError: on entering it, or while it is iterated.
        """
        ...

    async def models(self) -> Sequence[ModelEntry]:
        """Every model that can be asked for, once, our own first."""
        ...

    async def choose(self, request: ChatRequest) -> ChatRequest:
        """``request`` with the model that the router chooses for it.

        Raises:
            R3mesError: why there is none.
        """
        ...


class Embeddings(Protocol):
    """Makes vectors of texts, with this node's own model for that."""

    def models(self) -> Sequence[EmbeddingModel]:
        """The model, if there is one and it is ready."""
        ...

    async def embed(self, request: EmbeddingRequest) -> Embedded:
        """The vectors of some texts; a cancel takes them off the queue.

        Raises:
            R3mesError: why there are none.
        """
        ...


class ApiKey(Protocol):
    """A key that was checked; `actors.keyring.ApiKey` says what each part means.

    On the admin socket something without an id stands in for it.
    """

    @property
    def id(self) -> str | None: ...
    @property
    def name(self) -> str: ...
    @property
    def scopes(self) -> Collection[str]: ...
    @property
    def models(self) -> Collection[str] | None: ...
    @property
    def rpm(self) -> int | None: ...
    @property
    def expires_ms(self) -> int | None: ...


class Keyring(Protocol):
    """Knows the API keys, by their hashes."""

    async def check(self, secret: str) -> ApiKey:
        """Compare in constant time.

        Raises:
            Unauthenticated: no key has this secret.
        """
        ...


class NodeState(Protocol):
    """What the node knows about itself."""

    async def status(self) -> Mapping[str, object]:
        """All that `r3mes status`, `peers` and `models` show; JSON types only."""
        ...

    async def not_ready(self) -> Sequence[str]:
        """Why the node cannot answer now, one reason each; empty when it can."""
        ...
