"""A connection that has carried an answer is in order for what comes after it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from tests.node.conftest import Api


def post(body: dict[str, object]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        "authorization: Bearer r3k_both\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def test_an_idle_connection_is_closed_after_a_whole_answer(
    api: Api, chat: dict[str, object]
) -> None:
    with trio.fail_after(10):
        sent = await api.raw(post(chat))
    assert b"Hello, world" in sent


async def test_two_requests_on_one_connection(api: Api, chat: dict[str, object]) -> None:
    with trio.fail_after(10):
        sent = await api.raw(post(chat) + post(chat))
    assert sent.count(b"Hello, world") == 2
