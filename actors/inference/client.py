"""How other parts of the node have answers written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from hashlib import blake2b
from itertools import count
from math import inf
from secrets import token_bytes

import trio

from r3mes.actors.asking import asker
from r3mes.actors.inference.actor import (
    Board,
    Enqueue,
    Load,
    LoadAdapter,
    Message,
    ModelActor,
    Ready,
    Rest,
    Unload,
    UnloadAdapter,
    Withdraw,
)
from r3mes.actors.inference.calls import CallForm
from r3mes.actors.inference.choice import UPSTREAM
from r3mes.actors.inference.generation import GenerateJob, Generation, Ticket
from r3mes.actors.inference.manifest import Manifest, with_adapter
from r3mes.actors.inference.protocol import Start, pack_ids
from r3mes.actors.inference.settings import AdapterSettings
from r3mes.actors.inference.shelf import Shelved
from r3mes.actors.inference.text import Text
from r3mes.actors.inference.verifying import Verification, verify
from r3mes.actors.kernel.mailbox import Mailbox
from r3mes.errors import (
    ActorStopped,
    AskTimeout,
    BadRequest,
    ContextLengthExceeded,
    EngineError,
    MailboxFull,
    ModelNotFound,
    NotReady,
    Overloaded,
)

_numbers = count(1)

ASK_S = 10.0
"""How long an actor may take to answer, or a worker to be gone once it is killed."""


class InferenceClient:
    """A facade over one actor per model."""

    def __init__(self, actors: Iterable[ModelActor]) -> None:
        self._models = {actor.settings.name: (actor.board, actor.mailbox) for actor in actors}
        self._salt = token_bytes(16)
        self._reading = trio.CapacityLimiter(1)  # more would only make the disk slower

    def manifests(self) -> tuple[Manifest, ...]:
        """Of the models that can write now, and of each with each of its adapters."""
        return tuple(
            manifest
            for board, _ in self._models.values()
            if board.ready and board.state in ("ready", "restarting", "resting")
            for manifest in _manifests(board.ready.manifest, board)
        )

    async def settled(self) -> None:
        """Wait until every model and adapter is ready, has failed, or was put away."""
        for board, _ in self._models.values():
            while board.state == "loading":
                await board.changed.wait()
            for adapter in list(board.adapters.values()) if board.ready else ():
                await adapter.settled.wait()

    def boards(self) -> dict[str, Board]:
        """State of every model that is configured, by name; read only."""
        return {name: board for name, (board, _) in self._models.items()}

    def explain(self, model: str) -> None:
        """Say why ``model`` cannot write now; nothing if it can, or is none of this node's.

        Raises:
            NotReady: it is still being loaded.
            ModelUnloaded: the operator has put it away.
            ModelMissing, ModelInvalid, EngineError: it could not be loaded.
        """
        base = model.partition(":")[0]
        if base in self._models:
            _ready(base, self._models[base][0])
            _adapter(model, self._models[base][0])

    def check_room(self, model: str, deadline_s: float) -> None:
        """Raise `Overloaded` if an answer could not begin in ``deadline_s`` seconds.

        `generate` decides in the end; this costs nothing, and so comes before what does.
        """
        base = model.partition(":")[0]
        if base in self._models:
            self._models[base][0].check_room(deadline_s, self._owner())

    async def load(self, model: str) -> None:
        """Take ``model`` out again, or try again if it failed; does not wait until it is loaded.

        Raises:
            ModelNotFound: this node does not have the model.
            NotReady: it is just being put away.
        """
        _, mailbox = self._whole(model)
        await mailbox.ask(Load(), timeout=ASK_S)

    async def rest(self, model: str, why: str) -> bool:
        """Have ``model`` give its memory back until it is asked; False if it has to do or may not.

        Raises:
            ModelNotFound: this node does not have the model.
        """
        _, mailbox = self._one(model)
        return await mailbox.ask(Rest(why), timeout=ASK_S)

    async def unload(self, model: str, *, patience_s: float) -> None:
        """Put ``model`` away: from now on it takes nothing new; returns when its worker is gone.

        Args:
            model: its name.
            patience_s: answers in flight that take longer are cut off with `ModelUnloaded`.

        Raises:
            ModelNotFound: this node does not have the model.
        """
        _, mailbox = self._whole(model)
        await mailbox.ask(Unload(patience_s), timeout=patience_s + ASK_S)

    async def load_adapter(self, model: str, settings: AdapterSettings) -> Shelved:
        """Load an adapter of ``model``; one of its name stays until the new one has proved good.

        Returns when it can be asked for.

        Raises:
            ModelNotFound: this node does not have the model.
            NotReady, EngineError: the model is not loaded, or the adapter cannot be.
        """
        board, mailbox = self._one(model)
        _ready(model, board)
        adapter = await mailbox.ask(LoadAdapter(settings), timeout=ASK_S)
        await adapter.settled.wait()
        adapter.check()
        return adapter

    def adapter(self, model: str) -> Shelved:
        """The adapter in ``base:adapter``; read only.

        Raises:
            ModelNotFound: this node does not have it.
        """
        return _named(model, self._one(model)[0])

    async def unload_adapter(self, model: str, *, patience_s: float) -> None:
        """Put ``base:adapter`` away; returns when nothing uses it any more.

        Args:
            model: the names of model and adapter.
            patience_s: answers in flight that take longer are cut off with `ModelUnloaded`.

        Raises:
            ModelNotFound: this node does not have it.
        """
        board, mailbox = self._one(model)
        adapter = _named(model, board)
        await mailbox.ask(UnloadAdapter(adapter, patience_s), timeout=patience_s + ASK_S)

    async def verify(self, model: str) -> Verification:
        """Read the files of ``model`` again and compare them with what was loaded.

        Raises:
            ModelNotFound: this node does not have the model.
            NotReady, EngineError: it is not loaded, so there is nothing to compare with.
        """
        board, _ = self._whole(model)
        expected, directory = _ready(model, board).files, board.directory
        if board.choice is not None and board.choice.engine == UPSTREAM:
            raise EngineError("the weights are with another server, and cannot be read here")
        if directory is None:
            raise NotReady(f"the model {model} is still being loaded", retry_after_s=5)
        return await verify(directory, expected, limiter=self._reading)

    async def count_prompt(self, model: str, messages: Sequence[Mapping[str, object]]) -> int:
        """How many tokens ``messages`` are for ``model``.

        Raises:
            ModelNotFound: this node does not have the model.
            NotReady, EngineError: it is not loaded.
            BadRequest: the messages cannot be used.
            ContextLengthExceeded: so long that it was not even counted.
        """
        board, _ = self._one(model)
        return len(await _ready(model, board).text.prompt(messages))

    def _whole(self, model: str) -> tuple[Board, Mailbox[Message]]:
        """The model; an adapter is none."""
        if ":" in model:
            raise ModelNotFound(
                f"{model!r} is an adapter and no model",
                do="for adapters: r3mes models adapters load, or unload",
                param="model",
            )
        return self._one(model)

    def _one(self, model: str) -> tuple[Board, Mailbox[Message]]:
        """The model, also if an adapter of it is named."""
        base = model.partition(":")[0]
        if base not in self._models:
            raise ModelNotFound(f"this node has no model named {base!r}", param="model")
        return self._models[base]

    def _owner(self) -> bytes:
        """For whom this task works, by a name that says nothing to the worker."""
        return blake2b(asker().encode(), key=self._salt, digest_size=16).digest()

    @asynccontextmanager
    async def generate(self, job: GenerateJob, *, deadline_s: float) -> AsyncIterator[Generation]:
        """Have an answer written; entered once its writing has begun, left early cancels it.

        Args:
            job: what to write.
            deadline_s: seconds within which the writing must begin; it may end later.

        Raises:
            ModelNotFound: this node does not have the model.
            NotReady: it is still loading.
            ModelMissing, ModelInvalid, EngineError: it could not be loaded.
            BadRequest: the messages or an option cannot be used.
            ContextLengthExceeded: prompt and answer do not fit.
            Overloaded: it would not begin in time, or did not.
            EngineCrashed: (also while iterating) the worker died under the answer.
        """
        board, mailbox = self._one(job.model)
        ready, adapter = _ready(job.model, board), _adapter(job.model, board)
        deadline = trio.current_time() + deadline_s
        _check(job, ready.vocabulary)
        form = ready.text.call_form(job.tools)
        prompt = await ready.text.prompt(job.messages, job.tools)
        grammar = await _grammar(job, form, ready.text)
        start = _start(job, prompt, ready, grammar, self._owner())
        writer = await ready.text.writer(job.stop, job.emitted, form)
        ticket = Ticket(start, deadline, adapter, job.messages, bool(job.tools))
        withdraw = partial(_withdraw, mailbox, ticket)
        try:
            await _enqueue(mailbox, ticket)
            await _begin(ticket)
            calls = form.name if form else ""
            yield Generation(prompt, ticket, writer, withdraw, ready.text.spelling, calls)
        finally:
            ticket.ids_out.close()
            withdraw()


def _manifests(base: Manifest, board: Board) -> Iterator[Manifest]:
    yield base
    for adapter in board.adapters.values():
        if adapter.state == "ready" and adapter.hash is not None:
            yield with_adapter(base, adapter.name, adapter.hash, adapter.numeric)


def _adapter(model: str, board: Board) -> Shelved | None:
    """The adapter that is named behind a colon; it can be used, perhaps after it was fetched."""
    if ":" not in model:
        return None
    adapter = _named(model, board)
    adapter.check()
    return adapter


def _named(model: str, board: Board) -> Shelved:
    base, _, name = model.partition(":")
    if name not in board.adapters:
        raise ModelNotFound(f"{base} has no adapter named {name!r} on this node", param="model")
    return board.adapters[name]


def _ready(name: str, board: Board) -> Ready:
    if board.ready is not None:
        return board.ready
    if board.state in ("failed", "unloading", "unloaded") and board.error is not None:
        raise board.error.again()
    raise NotReady(f"the model {name} is still being loaded", retry_after_s=5)


async def _grammar(job: GenerateJob, form: CallForm | None, text: Text) -> str:
    if form is None or not job.call:
        return await text.grammar(job.grammar_kind, job.grammar)
    return await text.call_grammar(form, job.tools, job.call)


def _start(
    job: GenerateJob, prompt: tuple[int, ...], ready: Ready, grammar: str, owner: bytes
) -> Start:
    return Start(
        id=next(_numbers),
        prompt=pack_ids(prompt),
        emitted=pack_ids(job.emitted),
        temperature=job.temperature,
        top_k=min(job.top_k, ready.vocabulary),
        top_p=job.top_p,
        seed=job.seed,
        max_new=_fit(job, len(prompt), ready.manifest.context),
        stop_ids=b"",
        adapter=0,
        min_p=job.min_p,
        presence_penalty=job.presence_penalty,
        frequency_penalty=job.frequency_penalty,
        repetition_penalty=job.repetition_penalty,
        bias=pack_ids([token for token, _ in job.logit_bias]),
        biases=tuple(bias for _, bias in job.logit_bias),
        logprobs=job.logprobs,
        grammar=grammar,
        owner=owner,
    )


def _check(job: GenerateJob, vocabulary: int) -> None:
    """Other surfaces check as well; a number that got past them would cost a worker."""
    if any(not 0 <= token < vocabulary for token in job.emitted):
        raise BadRequest("an emitted token is not one of this model", param="emitted")
    if not 0 <= job.temperature < inf:
        raise BadRequest(
            f"temperature is {job.temperature}, and not 0 or more", param="temperature"
        )
    if not 0 < job.top_p <= 1:
        raise BadRequest(f"top_p is {job.top_p}, and not above 0 and up to 1", param="top_p")
    if job.top_k < 0:
        raise BadRequest(f"top_k is {job.top_k}, and not 0 or more", param="top_k")
    if not 0 <= job.min_p <= 1:
        raise BadRequest(f"min_p is {job.min_p}, and not 0 to 1", param="min_p")
    if not 0 < job.repetition_penalty < inf:
        raise BadRequest(
            f"repetition_penalty is {job.repetition_penalty}, and not above 0",
            param="repetition_penalty",
        )
    if any(not 0 <= token < vocabulary for token, _ in job.logit_bias):
        raise BadRequest("a token of logit_bias is not one of this model", param="logit_bias")
    if not 0 <= job.seed < 2**63:
        raise BadRequest("seed is not a number from 0 to 2^63 - 1", param="seed")


def _fit(job: GenerateJob, prompt: int, context: int) -> int:
    """How many tokens may be written; never by cutting anything off."""
    left = context - prompt - len(job.emitted)
    wanted = job.max_tokens
    if left < 1 or (wanted is not None and wanted > left):
        answer = f" and {wanted} for the answer" if wanted is not None else ""
        before = f", {len(job.emitted)} written before" if job.emitted else ""
        raise ContextLengthExceeded(
            f"the prompt has {prompt} tokens{before}{answer}, and the model's context is "
            f"{context} tokens",
            param="messages" if left < 1 else "max_tokens",
        )
    if wanted is not None and wanted < 1:
        raise BadRequest(f"max_tokens is {wanted} and must be at least 1", param="max_tokens")
    return left if wanted is None else wanted


async def _enqueue(mailbox: Mailbox[Message], ticket: Ticket) -> None:
    patience = max(0.0, ticket.deadline - trio.current_time())
    try:
        await mailbox.ask(Enqueue(ticket), timeout=patience)
    except AskTimeout as error:
        raise Overloaded(error.detail, retry_after_s=1) from None


async def _begin(ticket: Ticket) -> None:
    with trio.move_on_at(ticket.deadline):
        await ticket.began.wait()
    if ticket.error is not None:
        raise ticket.error
    if not ticket.began.is_set():
        raise Overloaded("its turn did not come in time", retry_after_s=1)


def _withdraw(mailbox: Mailbox[Message], ticket: Ticket) -> None:
    if ticket.reason or ticket.error:
        return
    with suppress(MailboxFull, NotReady, ActorStopped):  # the next token finds no reader
        mailbox.tell_nowait(Withdraw(ticket.start.id))
