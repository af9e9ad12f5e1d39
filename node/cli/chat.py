"""`r3mes chat`: ask a model through the node, as any application would: with OpenAI's client."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r3mes.config.schema import Config
from r3mes.errors import BadRequest, ModelNotFound, NotReady
from r3mes.node.cli import completion
from r3mes.node.cli.api import (
    admin_socket,
    api_address,
    api_key,
    get,
    key_is_closed,
    not_running,
    told,
)
from r3mes.node.cli.output import harmless, remes, say, short
from r3mes.node.cli.session import session

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

EMPTY: dict[str, Any] = {}


@dataclass(slots=True)
class Course:
    """How an answer came: what the summary line says."""

    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    text: str = ""
    tokens: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def take(self, chunk: ChatCompletionChunk) -> str:
        """Note a chunk; returns its text."""
        delta = (chunk.choices[0].delta.content or "") if chunk.choices else ""
        if delta and self.first is None:
            self.first = time.perf_counter()
        self.text += delta
        if chunk.usage is not None:
            self.tokens = chunk.usage.completion_tokens
        self.extra = (chunk.model_extra or EMPTY).get("r3mes") or self.extra
        return delta

    def summary(self) -> str:
        first = self.first or time.perf_counter()
        rate = self.tokens / max(time.perf_counter() - first, 1e-6)
        auto: dict[str, Any] = self.extra.get("auto") or EMPTY
        where = "here" if self.extra.get("route") == "local" else "peer"
        return " · ".join(
            [
                f"-- {self.tokens} tokens",
                f"ttft {first - self.started:.2f} s",
                f"{rate:.0f} tok/s",
                f"{where} {short(str(self.extra.get('peer_id', '?')))}",
                remes(int(self.extra.get("cost_uremes", 0))),
                f"receipt {str(self.extra.get('receipt_id', '?'))[:16]}",
                *([_chosen(auto)] if auto else []),
            ]
        )


def _chosen(auto: dict[str, Any]) -> str:
    """How the router came to the model."""
    if auto["abstained"]:
        return harmless(f"{auto['model']} by default, {auto['why'] or 'like no route'}")
    likeness = f"score {auto['score']:.2f}, margin {auto['margin']:.2f}, by {auto['method']}"
    return harmless(f"{auto['model']} by route {auto['route']} ({likeness})")


def chat(
    context: typer.Context,
    text: Annotated[
        str | None, typer.Argument(help="The question; from a pipe, or a dialogue, if left out.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="One of `r3mes models`, or auto.", autocompletion=completion.any_model),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 for the likeliest.")] = 0.0,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
) -> None:
    """Ask a model, or talk with it."""
    config = session(context).to_ask()
    key = None if key_is_closed(config) else api_key(config)
    name = model or _first_model(config)

    import openai

    options = {"model": name, "temperature": temperature, "max_tokens": max_tokens}
    try:
        with _client(config, key) as client:
            if text is None and sys.stdin.isatty():
                _dialogue(client, options)
            else:
                _ask(client, options, [_user(_piped() if text is None else text)])
    except openai.APIConnectionError as error:
        raise not_running(config) from error
    except openai.APIError as error:
        body = error.body if isinstance(error.body, dict) else {"message": error.message}
        raise told({"code": error.code, **body}) from error


def _client(config: Config, key: str | None) -> OpenAI:
    """To the API with the key; without one to the admin socket, whose permissions stand for it."""
    import httpx2  # what openai speaks HTTP with
    import openai

    if key is not None:
        url = f"http://{api_address(config)}/v1"
        return openai.OpenAI(base_url=url, api_key=key, max_retries=0)
    socket = httpx2.Client(transport=httpx2.HTTPTransport(uds=str(admin_socket(config))))
    url = "http://localhost/v1"
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, http_client=socket)


def _first_model(config: Config) -> str:
    """A model of this node if it has one, else any."""
    listed = get(config, "/v1/models")["data"]
    models = [model for model in listed if "embeddings" not in model["r3mes"]]
    if not models and (reasons := get(config, "/node/status")["reasons"]):
        raise NotReady(
            f"no model can be asked yet: {', '.join(reasons)}", do="`r3mes status` says what to do"
        )
    if not models:
        raise ModelNotFound(
            "no model is known yet", do="wait until a peer is connected, or serve one"
        )
    own = [model["id"] for model in models if model["owned_by"] == "local"]
    return str((own or [model["id"] for model in models])[0])


def _dialogue(client: OpenAI, options: dict[str, Any]) -> None:
    say(f"Talking with {options['model']}. An empty line or Ctrl-D ends it.")
    messages: list[ChatCompletionMessageParam] = []
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            return
        if not text:
            return
        messages.append(_user(text))
        answer = _ask(client, options, messages)
        messages.append({"role": "assistant", "content": answer})


def _ask(
    client: OpenAI, options: dict[str, Any], messages: list[ChatCompletionMessageParam]
) -> str:
    course = Course()
    stream = client.chat.completions.create(
        messages=messages, stream=True, stream_options={"include_usage": True}, **options
    )
    for chunk in stream:
        sys.stdout.write(harmless(course.take(chunk)))
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    say(course.summary())
    return course.text


def _piped() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise _not_text() from None


def _user(text: str) -> ChatCompletionMessageParam:
    if not text.strip():
        raise BadRequest("the question is empty", do="give it as an argument or through a pipe")
    try:
        text.encode()
    except UnicodeEncodeError:  # Python keeps bytes of other encodings as half surrogates
        raise _not_text() from None
    return {"role": "user", "content": text}


def _not_text() -> BadRequest:
    return BadRequest("the question is not text in UTF-8", do="convert it, with iconv for example")
