"""One HTTP server, as little trusted as a peer: sizes and times bounded, no redirects, no proxies.

Only the URL that the operator wrote is ever asked; nothing in a request or an answer leads to
another one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from r3mes.config.secrets import read_secret
from r3mes.errors import Overloaded, R3mesError, UpstreamFailed

LINE_CAP = 1024 * 1024
"""Bytes of one line of an answer."""
BODY_CAP = 4 * 1024 * 1024
"""Bytes of an answer that is not streamed."""
LIMITS = httpx.Timeout(connect=5.0, write=20.0, pool=5.0, read=120.0)
"""Seconds; the longest silence is that before the first token of a long prompt."""
ASK_S = 10.0
"""For an answer that is not streamed, from the first byte to the last."""
BUSY = (429, 503)
WORDS_CAP = 200


class Server:
    """Speaks with the server; one per meeting, closed by `opened`."""

    def __init__(self, client: httpx.AsyncClient, key: str) -> None:
        self._client, self._key = client, key

    async def ask(self, url: str) -> Mapping[str, Any]:
        """The JSON object at ``url``.

        Raises:
            UpstreamFailed: there is none, or the server cannot be reached.
        """
        try:
            async with self._client.stream("GET", url, timeout=ASK_S) as response:
                body = await _read(response)
                self._check(response, body)
        except httpx.HTTPError as error:
            raise _unreachable(error) from None
        return _object(body)

    @asynccontextmanager
    async def stream(
        self, url: str, body: Mapping[str, object]
    ) -> AsyncIterator[AsyncIterator[Mapping[str, Any]]]:
        """Post ``body``; gives the objects of the answer's lines, once it has begun.

        Left early it hangs up, which ends the server's work.

        Raises:
            Overloaded: the server is busy.
            UpstreamFailed: it refuses, breaks off, or sends something else.
        """
        try:
            async with self._client.stream("POST", url, json=body) as response:
                if response.status_code != httpx.codes.OK:
                    self._check(response, await _read(response))
                async with aclosing(_objects(response)) as objects:
                    yield objects
        except httpx.HTTPError as error:
            raise _unreachable(error) from None

    def _check(self, response: httpx.Response, body: bytes) -> None:
        status = response.status_code
        if status == httpx.codes.OK:
            return
        words = _words(body)
        if self._key:
            words = words.replace(self._key, "…")
        if status in BUSY:
            raise Overloaded(f"the server behind the model is busy: {words}", retry_after_s=1)
        do = "see upstream_key_file" if status in (401, 403) else None
        raise UpstreamFailed(f"the server answered with status {status}: {words}", do=do)


@asynccontextmanager
async def opened(key_file: Path | None, connections: int) -> AsyncIterator[Server]:
    """A server to speak with, with the key that is in ``key_file`` now."""
    key = read_secret(key_file) if key_file else ""
    headers = {"Accept-Encoding": "identity"}  # what is not packed cannot burst
    if key:
        headers["Authorization"] = f"Bearer {key}"
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(
        headers=headers, timeout=LIMITS, limits=limits, trust_env=False, follow_redirects=False
    ) as client:
        yield Server(client, key)


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > BODY_CAP:
            raise UpstreamFailed(f"the server's answer is larger than {BODY_CAP} bytes")
    return bytes(body)


async def _objects(response: httpx.Response) -> AsyncGenerator[Mapping[str, Any]]:
    """The JSON objects of server-sent events, or of lines that are JSON themselves."""
    async with aclosing(_lines(response)) as lines:
        async for line in lines:
            data = line.removeprefix(b"data:").strip()
            if data.startswith(b"{"):  # neither a comment nor the last word, [DONE]
                found = _object(data)
                if "error" in found:
                    raise UpstreamFailed(f"the server broke off: {_words(data)}")
                yield found


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes]:
    rest = b""
    async with aclosing(_parts(response)) as parts:
        async for part in parts:
            *whole, rest = (rest + part).split(b"\n")
            for line in whole:
                yield line
            if len(rest) > LINE_CAP:
                raise UpstreamFailed(f"the server sent a line of more than {LINE_CAP} bytes")
    yield rest


def _parts(response: httpx.Response) -> AsyncGenerator[bytes]:
    parts = response.aiter_raw()
    if not isinstance(parts, AsyncGenerator):
        raise TypeError("httpx gives the parts of an answer by a generator")
    return parts


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise UpstreamFailed("the server sent something that is not JSON") from None
    if not isinstance(found, dict):
        raise UpstreamFailed("the server sent something that is not a JSON object")
    return found


def _words(body: bytes) -> str:
    """What an error says, for people: in one line, and not all of a long one."""
    try:
        found = _object(body).get("error", "")
        text = found.get("message", "") if isinstance(found, dict) else found
    except R3mesError:
        text = body.decode(errors="replace")
    return " ".join(str(text).split())[:WORDS_CAP]


def _unreachable(error: httpx.HTTPError) -> UpstreamFailed:
    why = " ".join(str(error).split())[:WORDS_CAP] or "it gave no sign of life"
    return UpstreamFailed(f"the server cannot be reached: {type(error).__name__}: {why}")
