"""Streams as servers write them, read after the fact; and a play against a server on loopback."""

import json
from functools import partial

import pytest
import trio

from benchmarks.asking import Endpoint, at_once, play


def event(text: str) -> bytes:
    data = f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n".encode()
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
USAGE = b'data: {"choices": [], "usage": {"completion_tokens": 3}}\n\n'
END = f"{len(USAGE):x}\r\n".encode() + USAGE + b"\r\n0\r\n\r\n"


async def answer_with(pieces: list[bytes], stream: trio.SocketStream) -> None:
    await stream.receive_some(65536)
    for piece in pieces:
        await stream.send_all(piece)
    await stream.aclose()


async def served(pieces: list[bytes], count: int) -> list[tuple[int, int]]:
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, partial(answer_with, pieces), 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        port = listener.socket.getsockname()[1]
        endpoint = Endpoint(f"http://127.0.0.1:{port}", "/v1/chat/completions", {"model": "m"}, {})
        answers = await play(endpoint, at_once(["babe"] * count))
        nursery.cancel_scope.cancel()
    return [(len(answer.seen_s), answer.tokens) for answer in answers]


@pytest.mark.net
async def test_text_is_counted_by_pieces_and_tokens_by_what_the_server_says() -> None:
    whole = [HEAD, event(""), event("one two"), event(" three"), END]
    assert await served(whole, 3) == [(2, 3)] * 3


@pytest.mark.net
async def test_events_that_come_in_halves_are_put_together() -> None:
    data = HEAD + event("one") + event("two") + END
    assert await served([data[:70], data[70:]], 1) == [(2, 3)]


@pytest.mark.net
async def test_what_is_no_answer_is_an_error_that_quotes_it() -> None:
    refusal = b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy"
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="busy"), flatten_subgroups=True):
        await served([refusal], 1)
