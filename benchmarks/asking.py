"""Asking a server for streamed answers, all at once or one by one, and noting when text arrives.

The client shares the cores with what it measures, so it only notes the time of each piece of the
response while it comes; what the pieces say is read when all is over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import urlsplit

import h11
import trio

PATIENCE_S = 300.0
SAMPLING = {"temperature": 1, "top_p": 1, "seed": 1}
"""As people ask.  Greedy, a model of random weights repeats itself, and whoever guesses ahead would
look faster than with a model that has learnt something."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a play: when it comes, in seconds from the beginning, and what it says."""

    at_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """When an answer's text arrived, in seconds since the beginning of the play.

    Args:
        asked_s: when the request was sent.
        seen_s: when each piece of text came, in order; a piece may be several tokens.
        tokens: written in all.
    """

    asked_s: float
    seen_s: tuple[float, ...]
    tokens: int

    @property
    def first_s(self) -> float:
        """From the request to the first text."""
        return self.seen_s[0] - self.asked_s


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how a server is asked.

    Args:
        url: of the server.
        path: of chat completions in OpenAI's form.
        body: what every request says besides its message.
        headers: of every request.
    """

    url: str
    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]


def at_once(texts: Sequence[str]) -> list[Arrival]:
    """All come at the beginning."""
    return [Arrival(0.0, text) for text in texts]


def by_chance(texts: Sequence[str], per_s: float, random: Random) -> list[Arrival]:
    """They come as a Poisson process."""
    arrivals, now = [], 0.0
    for text in texts:
        arrivals.append(Arrival(now, text))
        now += random.expovariate(per_s)
    return arrivals


async def play(endpoint: Endpoint, arrivals: Sequence[Arrival]) -> list[Answer]:
    """Send each request when it comes, on a connection of its own.

    Raises:
        ValueError: a response is not the stream of an answer.
    """
    seen: list[list[tuple[float, bytes]]] = [[] for _ in arrivals]
    asked = [0.0] * len(arrivals)
    begun = time.perf_counter()

    async def ask(number: int, arrival: Arrival) -> None:
        await trio.sleep(arrival.at_s)
        request = _request(endpoint, arrival.text)
        asked[number] = time.perf_counter() - begun
        address = urlsplit(endpoint.url)
        stream = await trio.open_tcp_stream(address.hostname or "", address.port or 80)
        async with stream:
            await stream.send_all(request)
            while data := await stream.receive_some(65536):
                seen[number].append((time.perf_counter() - begun, data))
                if data.endswith(b"0\r\n\r\n"):
                    return

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for number, arrival in enumerate(arrivals):
                nursery.start_soon(ask, number, arrival)
    return [_answer(when, pieces) for when, pieces in zip(asked, seen, strict=True)]


def _request(endpoint: Endpoint, text: str) -> bytes:
    messages = [{"role": "user", "content": text}]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps({"messages": messages, **options, **SAMPLING, **endpoint.body}).encode()
    headers = {
        "host": "localhost",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **endpoint.headers,
    }
    lines = [f"POST {endpoint.path} HTTP/1.1", *(f"{key}: {v}" for key, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _answer(asked_s: float, pieces: Sequence[tuple[float, bytes]]) -> Answer:
    seen: list[float] = []
    tokens = 0
    for when, event in _events(pieces):
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
        choices = event.get("choices") or ()
        seen.extend(when for choice in choices if choice["delta"].get("content"))
    if not seen:
        raise ValueError(f"no answer but {b''.join(data for _, data in pieces)[-500:]!r}")
    return Answer(asked_s, tuple(seen), tokens)


def _events(pieces: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, dict[str, Any]]]:
    """The objects of a stream of server-sent events, each with the time when it was whole."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "localhost")]))
    connection.send(h11.EndOfMessage())
    rest = b""
    for when, data in pieces:
        connection.receive_data(data)
        while isinstance(event := connection.next_event(), (h11.Response, h11.Data)):
            if isinstance(event, h11.Data):
                *lines, rest = (rest + event.data).split(b"\n")
                for line in lines:
                    if line.startswith(b"data: {"):
                        yield when, json.loads(line[6:])
